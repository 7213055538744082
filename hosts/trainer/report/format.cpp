#include "hosts/trainer/report/format.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace tenon::trainer::html {
namespace {

constexpr const char* kDash = "\xE2\x80\x93";
constexpr const char* kSpace = "\xC2\xA0";  // a number and its unit stay on one line

std::string print(const char* format, double x, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, format, digits, x);
  return text;
}

// "1234567.8" with commas in its whole part.
std::string grouped(std::string text) {
  const size_t start = text[0] == '-' ? 1 : 0;
  size_t at = std::min(text.find('.'), text.size());
  while (at > start + 3) text.insert(at -= 3, ",");
  return text;
}

std::string scaled(double x, double base, const char* const* units, int n_units) {
  if (!std::isfinite(x)) return kDash;
  int unit = 0;
  while (std::abs(x) >= base * 0.9995 && unit + 1 < n_units) x /= base, ++unit;
  const int decimals = unit == 0 || std::abs(x) >= 99.95 ? 0 : std::abs(x) >= 9.995 ? 1 : 2;
  std::string out = grouped(print("%.*f", x, decimals));
  return *units[unit] ? out + kSpace + units[unit] : out;
}

}  // namespace

std::string escape(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 16);
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        if ((static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') || c == 0x7F)
          out += "\xEF\xBF\xBD";
        else
          out += c;
    }
  }
  return out;
}

std::string number(double x, int significant) {
  if (!std::isfinite(x)) return kDash;
  if (x == 0) return "0";
  const double magnitude = std::floor(std::log10(std::abs(x)));
  if (magnitude < -3 || magnitude >= 9) {
    std::string text = print("%.*e", x, significant - 1);
    const size_t e = text.find('e');
    size_t last = text.find_last_not_of('0', e - 1);  // 1.000e-05 is 1e-05
    if (text[last] == '.') --last;
    return text.substr(0, last + 1) + text.substr(e);
  }
  const int decimals = std::max(0, significant - 1 - static_cast<int>(magnitude));
  return grouped(print("%.*f", x, decimals));
}

std::vector<std::string> axis(const std::vector<double>& ticks) {
  double most = 0, step = 0;
  for (const double v : ticks) most = std::max(most, std::abs(v));
  if (ticks.size() > 1) step = ticks[1] - ticks[0];
  std::vector<std::string> out;
  for (const double v : ticks) {
    if (v == 0 || !(step > 0))
      out.push_back(v == std::floor(v) && std::abs(v) < 1e15 ? whole(static_cast<int64_t>(v)) : number(v, 3));
    else if (most < 2e-3 || most >= 1e9)
      out.push_back(number(v, 2 + static_cast<int>(std::log10(std::abs(v) / step) + 1e-9)));
    else
      out.push_back(grouped(print("%.*f", v, std::max(0, static_cast<int>(std::ceil(-std::log10(step) - 1e-9))))));
  }
  return out;
}

std::string whole(int64_t x) {
  return grouped(std::to_string(x));
}

std::string bytes(double x) {
  static const char* const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  return scaled(x, 1024, units, 6);
}

std::string count(double x) {
  static const char* const units[] = {"", "k", "M", "B", "T"};
  return scaled(x, 1000, units, 5);
}

std::string duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return kDash;
  if (seconds < 10) return print("%.*f", seconds, 1) + kSpace + "s";
  const int64_t s = std::llround(std::min(seconds, 1e15));
  const auto parts = [](int64_t large, const char* unit, int64_t small, const char* small_unit) {
    return whole(large) + kSpace + unit + (small ? kSpace + std::to_string(small) + kSpace + small_unit : "");
  };
  if (s < 60) return parts(s, "s", 0, "");
  if (s < 3600) return parts(s / 60, "min", s % 60, "s");
  if (s < 172800) return parts(s / 3600, "h", s / 60 % 60, "min");
  return parts(s / 86400, "d", s / 3600 % 24, "h");
}

std::string percent(double fraction) {
  if (!std::isfinite(fraction)) return kDash;
  const double x = 100 * fraction, size = std::abs(x);
  return print("%.*f", x, x == 0 || size >= 99.95 ? 0 : size < 0.995 ? 2 : 1) + kSpace + "%";
}

}  // namespace tenon::trainer::html
