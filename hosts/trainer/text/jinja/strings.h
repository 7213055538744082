// Python's string methods over UTF-8.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tenon::trainer::jinja {

// Without the characters of `set` (null: white space) at the chosen ends.
std::string_view strip(std::string_view text, const std::string* set, bool left, bool right);
// At most `limit` cuts (negative: all), from the right end when `from_right`.
std::vector<std::string> split_text(std::string_view text, std::string_view by, int64_t limit, bool from_right);
std::vector<std::string> split_words(std::string_view text, int64_t limit, bool from_right);
std::vector<std::string> split_lines(std::string_view text);
std::string replace(std::string_view text, std::string_view from, std::string_view to, int64_t limit);
std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string title(std::string_view text);
std::string capitalize(std::string_view text);
// isdigit, isalpha, isalnum, isspace, isupper, islower, isnumeric.
bool is_class(std::string_view text, std::string_view name);

}  // namespace tenon::trainer::jinja
