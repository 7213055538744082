// What Split and Replace search for: a literal string or a regular expression.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hosts/trainer/text/json_input.h"
#include "hosts/trainer/text/unicode/regex.h"

namespace tenon::trainer {

class Pattern {
 public:
  // `value` is tokenizer.json's spelling: "text", {"String": "text"} or {"Regex": "pattern"}.
  Pattern(const Json& value, const std::string& where);
  explicit Pattern(std::string literal) : text_(std::move(literal)) {}

  void find_all(std::string_view text, std::vector<Span>& out) const;
  const std::string& text() const { return text_; }
  bool is_regex() const { return regex_.has_value(); }

 private:
  std::string text_;
  std::optional<Regex> regex_;
};

}  // namespace tenon::trainer
