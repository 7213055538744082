#include "hosts/trainer/text/tokenizer/pattern.h"

namespace tenon::trainer {

Pattern::Pattern(const Json& value, const std::string& where) {
  if (value.is_string()) {
    text_ = value.get<std::string>();
  } else if (value.is_object() && value.contains("String")) {
    text_ = get_string(value, "String", where);
  } else if (value.is_object() && value.contains("Regex")) {
    text_ = get_string(value, "Regex", where);
    regex_.emplace(text_, where);
  } else {
    wrong_type(where, "pattern", "a string or an object with \"String\" or \"Regex\"");
  }
}

void Pattern::find_all(std::string_view text, std::vector<Span>& out) const {
  if (regex_) return regex_->find_all(text, out);
  size_t covered = 0;
  if (!text_.empty()) {
    for (size_t at; (at = text.find(text_, covered)) != std::string_view::npos; covered = at + text_.size()) {
      if (at > covered) out.push_back({covered, at, false});
      out.push_back({at, at + text_.size(), true});
    }
  }
  if (covered < text.size()) out.push_back({covered, text.size(), false});
}

}  // namespace tenon::trainer
