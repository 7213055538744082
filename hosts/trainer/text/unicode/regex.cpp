#include "hosts/trainer/text/unicode/regex.h"

#include <unicode/uregex.h>
#include <unicode/ustring.h>

#include <limits>
#include <mutex>

#include "core/error.h"
#include "hosts/trainer/text/unicode/utf8.h"

namespace tenon::trainer {
namespace {

// ICU counts match steps in units of roughly a millisecond; no sane pattern comes near that in one match.
constexpr int32_t kMatchBudget = 1000;
constexpr int32_t kStackBytes = 64 << 20;
constexpr size_t kLongestText = std::numeric_limits<int32_t>::max() / 2;

void to_utf16(std::string_view text, std::u16string& out) {
  out.clear();
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const char32_t c = next_utf8(text, i);
    if (c < 0x10000) {
      out += char16_t(c);
    } else {
      out += char16_t(0xD7C0 + (c >> 10));
      out += char16_t(0xDC00 + (c & 0x3FF));
    }
  }
}

}  // namespace

struct Regex::Impl {
  std::string pattern, where;
  URegularExpression* compiled = nullptr;
  std::mutex mutex;
  std::vector<URegularExpression*> idle;  // clones: an ICU matcher holds its state, so that each caller needs its own

  ~Impl() {
    for (auto* r : idle) uregex_close(r);
    uregex_close(compiled);
  }
  URegularExpression* take() {
    const std::lock_guard lock(mutex);
    if (!idle.empty()) {
      auto* r = idle.back();
      idle.pop_back();
      return r;
    }
    UErrorCode status = U_ZERO_ERROR;
    auto* r = uregex_clone(compiled, &status);
    if (U_FAILURE(status)) throw Error(TN_E_MEMORY, "ICU could not clone the pattern \"" + pattern + "\"");
    uregex_setTimeLimit(r, kMatchBudget, &status);
    uregex_setStackLimit(r, kStackBytes, &status);
    return r;
  }
  void give(URegularExpression* r) {
    const std::lock_guard lock(mutex);
    idle.push_back(r);
  }
};

Regex::Regex(const std::string& pattern, const std::string& where) : impl_(std::make_unique<Impl>()) {
  impl_->pattern = pattern;
  impl_->where = where;
  std::u16string units;
  if (find_invalid_utf8(pattern) != std::string_view::npos || pattern.size() > 65536)
    throw Error(TN_E_FORMAT, where + ": a regular expression is not UTF-8 or longer than 65536 bytes");
  to_utf16(pattern, units);
  UErrorCode status = U_ZERO_ERROR;
  UParseError at;
  impl_->compiled = uregex_open(units.data(), int32_t(units.size()), 0, &at, &status);
  if (U_FAILURE(status))
    throw Error(TN_E_FORMAT, where + ": the regular expression \"" + pattern + "\" does not compile (" +
                                 u_errorName(status) + "), so that its tokenizer cannot be reproduced");
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

void Regex::find_all(std::string_view text, std::vector<Span>& out) const {
  if (text.empty()) return;
  if (text.size() > kLongestText)
    throw Error(TN_E_UNSUPPORTED, impl_->where + ": a text of " + std::to_string(text.size()) +
                                      " bytes is longer than a regular expression can match at once; split the file");
  thread_local std::u16string units;
  to_utf16(text, units);
  struct Lease {
    Impl& impl;
    URegularExpression* matcher;
    ~Lease() { impl.give(matcher); }
  } lease{*impl_, impl_->take()};
  UErrorCode status = U_ZERO_ERROR;
  uregex_setText(lease.matcher, units.data(), int32_t(units.size()), &status);
  size_t byte = 0, unit = 0, covered = 0;
  const auto byte_of = [&](size_t target) {  // matches come in order, so that one walk maps them all
    while (unit < target) {
      const size_t before = byte;
      next_utf8(text, byte);
      unit += byte - before == 4 ? 2 : 1;
    }
    return byte;
  };
  while (uregex_findNext(lease.matcher, &status) && U_SUCCESS(status)) {
    const size_t begin = byte_of(size_t(uregex_start(lease.matcher, 0, &status)));
    const size_t end = byte_of(size_t(uregex_end(lease.matcher, 0, &status)));
    if (begin > covered) out.push_back({covered, begin, false});
    if (end > begin) out.push_back({begin, end, true});
    covered = end;
  }
  if (U_FAILURE(status))
    throw Error(TN_E_FORMAT, impl_->where + ": matching the regular expression \"" + impl_->pattern + "\" failed (" +
                                 u_errorName(status) + ")");
  if (covered < text.size()) out.push_back({covered, text.size(), false});
}

}  // namespace tenon::trainer
