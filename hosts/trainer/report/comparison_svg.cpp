// The chart of a comparison as one SVG file: no style sheet or script of a page around it, readable on light and dark grounds alike.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "hosts/trainer/report/chart.h"
#include "hosts/trainer/report/comparison.h"
#include "hosts/trainer/report/format.h"

namespace tenon::trainer {
namespace {

using namespace html;

// Pixels. The plot lies between these; the names stand below it in columns.
constexpr double kWidth = 960, kLeft = 64, kRight = 936, kTop = 64, kBottom = 436, kLegendTop = 500, kLine = 18;
constexpr int kColumns = 3;
constexpr const char* kHead =
    " font-family=\"ui-sans-serif,system-ui,'Segoe UI',Roboto,Helvetica,Arial,sans-serif\" font-size=\"12\">\n"
    "<style>.p{fill:#fdfdfb}.t{fill:#16150f}.s{fill:#5d5b52}.g{stroke:#e4e2da}.f{stroke:#d9580f;stroke-width:2;fill:none}"
    "@media (prefers-color-scheme:dark){.p{fill:#1c1c1a}.t{fill:#f2f1ea}.s{fill:#b3b1a6}.g{stroke:#32312d}}</style>\n";

std::string px(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", v);
  return text;
}

std::string text(double x, double y, const std::string& words, const std::string& more = " class=\"s\"") {
  return "<text x=\"" + px(x) + "\" y=\"" + px(y) + "\"" + more + ">" + escape(words) + "</text>\n";
}

// From light (slow) to dark (fast).
std::string colour(double shade) {
  const auto mix = [&](double a, double b) { return static_cast<int>(std::lround(a + (b - a) * shade)); };
  char rgb[16];
  std::snprintf(rgb, sizeof rgb, "#%02x%02x%02x", mix(0xa9, 0x0f), mix(0xcb, 0x3f), mix(0xf7, 0x86));
  return rgb;
}

struct Axis {
  double low = INFINITY, high = -INFINITY, from = 0, to = 1;
  bool logarithmic = false;
  double warp(double v) const { return logarithmic ? std::log(v) : v; }
  void add(double v) { low = std::min(low, v), high = std::max(high, v); }
  void widen(double share) {
    if (logarithmic) {
      low *= 0.85, high *= 1.18;
    } else {
      const double by = high > low ? (high - low) * share : std::max(1e-9, std::abs(high) * 0.1);
      low -= by, high += by;
    }
  }
  double at(double v) const { return from + (to - from) * (warp(v) - warp(low)) / (warp(high) - warp(low)); }
};

// 128 MiB, 256 MiB …: the powers of two inside, which a logarithmic axis shows evenly.
std::vector<double> powers(const Axis& x) {
  std::vector<double> out;
  for (double v = std::exp2(std::ceil(std::log2(x.low))); v <= x.high; v *= 2) out.push_back(v);
  return out;
}

std::string mark(double x, double y, double shade, const std::string& label) {
  return "<circle cx=\"" + px(x) + "\" cy=\"" + px(y) + "\" r=\"10\" fill=\"" + colour(shade) + "\" stroke=\"#fdfdfb\"/>" +
         text(x, y + 4, label, std::string(" text-anchor=\"middle\" font-weight=\"600\" font-size=\"11\" fill=\"") + (shade < 0.45 ? "#0d2a55" : "#fff") + "\"");
}

}  // namespace

std::string svg_comparison(const std::vector<ComparisonRow>& rows, const std::string& title) {
  const std::vector<bool> front = pareto_front(rows);
  const std::vector<double> shade = speed_shades(rows);
  Axis x{.from = kLeft, .to = kRight, .logarithmic = true}, y{.from = kBottom, .to = kTop};
  std::vector<size_t> shown;
  for (size_t i = 0; i < rows.size(); ++i)
    if (drawable(rows[i])) shown.push_back(i), x.add(static_cast<double>(rows[i].peak_bytes)), y.add(rows[i].loss);
  if (shown.empty()) return "";
  x.widen(0), y.widen(0.08);
  const double lines = std::ceil(static_cast<double>(shown.size()) / kColumns), height = kLegendTop + lines * kLine + 12;

  std::string svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + px(kWidth) + " " + px(height) + "\" role=\"img\" aria-label=\"" + escape(title) + "\"" + kHead;
  svg += "<rect class=\"p\" width=\"100%\" height=\"100%\" rx=\"12\"/>\n" + text(24, 32, title, " class=\"t\" font-size=\"16\" font-weight=\"600\"");
  svg += text(24, 50, "\xE2\x86\x91 loss, lower is better; darker is faster") +
         text(kRight, kBottom + 40, "peak of accounted memory (doubling) \xE2\x86\x92", " class=\"s\" text-anchor=\"end\"");
  const std::vector<double> y_ticks = ticks(y.low, y.high, 6);
  const std::vector<std::string> y_labels = axis(y_ticks);
  for (size_t i = 0; i < y_ticks.size(); ++i)
    svg += "<path class=\"g\" d=\"M" + px(kLeft) + " " + px(y.at(y_ticks[i])) + "H" + px(kRight) + "\"/>" +
           text(kLeft - 8, y.at(y_ticks[i]) + 4, y_labels[i], " class=\"s\" text-anchor=\"end\"");
  for (const double v : powers(x))
    svg += "<path class=\"g\" d=\"M" + px(x.at(v)) + " " + px(kTop) + "V" + px(kBottom) + "\"/>" +
           text(x.at(v), kBottom + 20, bytes(v), " class=\"s\" text-anchor=\"middle\"");

  std::vector<size_t> best;
  for (const size_t i : shown)
    if (front[i]) best.push_back(i);
  std::sort(best.begin(), best.end(), [&](size_t a, size_t b) { return rows[a].peak_bytes < rows[b].peak_bytes; });
  std::string path;
  for (const size_t i : best) {
    const std::string at_x = px(x.at(static_cast<double>(rows[i].peak_bytes))), at_y = px(y.at(rows[i].loss));
    path += path.empty() ? "M" + at_x + " " + at_y : "H" + at_x + "V" + at_y;
  }
  svg += "<path class=\"f\" d=\"" + path + "\"/>\n";
  for (const size_t i : shown) svg += mark(x.at(static_cast<double>(rows[i].peak_bytes)), y.at(rows[i].loss), shade[i], std::to_string(i + 1));
  for (size_t k = 0; k < shown.size(); ++k) {
    const ComparisonRow& r = rows[shown[k]];
    const double column = std::floor(static_cast<double>(k) / lines), line = static_cast<double>(k) - column * lines;
    const std::string name = r.label.size() > 38 ? r.label.substr(0, 36) + "\xE2\x80\xA6" : r.label;
    svg += text(24 + column * 306, kLegendTop + line * kLine, std::to_string(shown[k] + 1) + "  " + name + "  " + number(r.loss),
                front[shown[k]] ? " class=\"t\" font-weight=\"600\"" : " class=\"s\"");
  }
  return svg + "</svg>\n";
}

}  // namespace tenon::trainer
