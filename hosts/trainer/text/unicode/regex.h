// Regular expressions over UTF-8, by ICU: the general path of the tokenizers' Split and Replace.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tenon::trainer {

// A half-open byte range of a text; `match` tells whether the pattern matched it or it lies between matches.
struct Span {
  size_t begin;
  size_t end;
  bool match;
};

class Regex {
 public:
  // Throws Error (TN_E_FORMAT) with ICU's reason when the pattern does not compile. `where` names the file.
  Regex(const std::string& pattern, const std::string& where);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  // Appends spans that cover `text` in order. Throws Error when the pattern backtracks beyond a fixed budget.
  // [any-thread]
  void find_all(std::string_view text, std::vector<Span>& out) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tenon::trainer
