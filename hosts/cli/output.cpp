#include "hosts/cli/output.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace tenon::cli {

void print_json(const nlohmann::json& document) {
  const std::string text = document.dump(1, ' ', false, nlohmann::json::error_handler_t::replace);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fputc('\n', stdout);
  std::fflush(stdout);
}

void append_json(std::string& to, std::string_view text) {
  const auto plain = [](char c) { return c >= ' ' && c < 0x7f && c != '"' && c != '\\'; };
  if (std::all_of(text.begin(), text.end(), plain)) {
    to += '"', to += text, to += '"';
  } else {
    to += nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
}

void remark(const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); }

std::string with_commas(int64_t n) {
  std::string s = std::to_string(n);
  for (int64_t i = static_cast<int64_t>(s.size()) - 3; i > (n < 0 ? 1 : 0); i -= 3) s.insert(static_cast<size_t>(i), ",");
  return s;
}

void print_written(const std::string& output, const trainer::QuantizedSize& size, bool json) {
  const double bits = size.quantized_weights > 0 ? 8.0 * static_cast<double>(size.quantized_bytes) / static_cast<double>(size.quantized_weights) : 0;
  for (const std::string& note : size.notes) remark("tenon: " + note);
  if (json) {
    nlohmann::json j{{"output", output}, {"bytes", size.total_bytes}, {"fallbacks", size.fallbacks}, {"notes", size.notes}};
    if (bits > 0) j["bits_per_weight"] = bits;
    return print_json(j);
  }
  std::printf("%s\n%s in all", output.c_str(), format_bytes(size.total_bytes).c_str());
  if (bits > 0) std::printf(", %.3f bits per linear weight", bits);
  std::printf("\n");
  for (const auto& [type, tensors] : size.fallbacks)
    std::printf("%lld tensors are %s: their rows do not fill the blocks of the type asked for\n", static_cast<long long>(tensors), type.c_str());
}

}  // namespace tenon::cli
