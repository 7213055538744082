// Numbers as people read them, and text made safe for HTML.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tenon::trainer::html {

// Safe inside elements and quoted attributes. Control characters other than tab and newline become U+FFFD, which is
// also what the page's readers make of bytes that are not UTF-8.
std::string escape(std::string_view text);

// The labels of an axis, all with as many digits as its steps ask for: "1.0", "1.5", "2.0".
std::vector<std::string> axis(const std::vector<double>& ticks);

// A dash for what is not finite. Units follow a space that does not break.
std::string number(double x, int significant = 4);  // "3.142", "12,346", "1.2e-05"
std::string whole(int64_t x);                       // "1,234,567"
std::string bytes(double x);                        // "1.23 GiB"
std::string count(double x);                        // "134.5 M"
std::string duration(double seconds);               // "1 h 23 min"
std::string percent(double fraction);               // "12.3 %"

}  // namespace tenon::trainer::html
