#include "hosts/cli/output.h"

#include <cstdio>
#include <nlohmann/json.hpp>

namespace tenon::cli {

void print_json(const nlohmann::json& document) {
  const std::string text = document.dump(1, ' ', false, nlohmann::json::error_handler_t::replace);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fputc('\n', stdout);
  std::fflush(stdout);
}

void remark(const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); }

std::string with_commas(int64_t n) {
  std::string s = std::to_string(n);
  for (int64_t i = static_cast<int64_t>(s.size()) - 3; i > (n < 0 ? 1 : 0); i -= 3) s.insert(static_cast<size_t>(i), ",");
  return s;
}

}  // namespace tenon::cli
