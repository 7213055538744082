// What a page of a report holds.
#pragma once

#include <string>

namespace tenon::trainer {

inline bool has(const std::string& page, const std::string& text) {
  return page.find(text) != std::string::npos;
}

inline size_t times(const std::string& page, const std::string& text) {
  size_t n = 0;
  for (size_t at = page.find(text); at != std::string::npos; at = page.find(text, at + 1)) ++n;
  return n;
}

}  // namespace tenon::trainer
