#include "hosts/trainer/text/tokenizer/normalizer.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/uniset.h>

#include <algorithm>

#include "core/error.h"
#include "hosts/trainer/text/tokenizer/model.h"
#include "hosts/trainer/text/tokenizer/pattern.h"
#include "hosts/trainer/text/unicode/char_class.h"
#include "hosts/trainer/text/unicode/utf8.h"

namespace tenon::trainer {
namespace {

bool is_ascii(std::string_view text) {
  return std::none_of(text.begin(), text.end(), [](char c) { return c & 0x80; });
}

// The reference normalizes by the tables of Unicode 9.0: what was assigned later stays as it is.
constexpr const char* kNormalizedAge = "[:age=9.0:]";
constexpr uint8_t kNormalizedMajor = 9;

const icu::UnicodeSet& normalized_characters() {
  static const icu::UnicodeSet* const set = [] {
    UErrorCode status = U_ZERO_ERROR;
    auto* s = new icu::UnicodeSet(icu::UnicodeString(kNormalizedAge), status);
    s->freeze();
    return s;
  }();
  return *set;
}

class UnicodeForm final : public Normalizer {
 public:
  UnicodeForm(std::string_view form, const std::string& where) {
    UErrorCode status = U_ZERO_ERROR;
    const icu::Normalizer2* whole = form == "NFC"    ? icu::Normalizer2::getNFCInstance(status)
                                    : form == "NFD"  ? icu::Normalizer2::getNFDInstance(status)
                                    : form == "NFKC" ? icu::Normalizer2::getNFKCInstance(status)
                                                     : icu::Normalizer2::getNFKDInstance(status);
    if (U_FAILURE(status)) throw Error(TN_E_UNSUPPORTED, where + ": this ICU offers no " + std::string(form));
    form_ = std::make_unique<icu::FilteredNormalizer2>(*whole, normalized_characters());
  }
  void apply(std::string& text, bool) const override {
    if (is_ascii(text)) return;
    UErrorCode status = U_ZERO_ERROR;
    if (form_->isNormalizedUTF8(text, status) && U_SUCCESS(status)) return;
    std::string out;
    icu::StringByteSink<std::string> sink(&out, int32_t(std::min<size_t>(text.size(), INT32_MAX)));
    status = U_ZERO_ERROR;
    form_->normalizeUTF8(0, text, sink, nullptr, status);
    if (U_FAILURE(status)) throw Error(TN_E_MEMORY, "Unicode normalization of a text failed; the text is too long");
    text.swap(out);
  }

 private:
  std::unique_ptr<icu::FilteredNormalizer2> form_;
};

class Lowercase final : public Normalizer {
 public:
  void apply(std::string& text, bool) const override {
    std::string out;
    out.reserve(text.size());
    for (size_t i = 0; i < text.size();) {
      const char32_t c = next_utf8(text, i);
      if (c == 0x130) {
        out += "i\xCC\x87";  // the only character whose lower case is two
      } else {
        append_utf8(out, char32_t(u_tolower(UChar32(c))));
      }
    }
    text.swap(out);
  }
};

class StripAccents final : public Normalizer {
 public:
  void apply(std::string& text, bool) const override {
    std::string out;
    for (size_t i = 0; i < text.size();) {
      const char32_t c = next_utf8(text, i);
      UVersionInfo age;
      u_charAge(UChar32(c), age);
      if (!(char_class(c) & kMark) || age[0] > kNormalizedMajor) append_utf8(out, c);
    }
    text.swap(out);
  }
};

class Strip final : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  void apply(std::string& text, bool) const override {
    size_t begin = 0, end = text.size();
    for (size_t i = 0; left_ && begin < end; begin = i)
      if (!(char_class(next_utf8(text, i)) & kSpace)) break;
    for (size_t i = end; right_ && begin < end; end = i)
      if (!(char_class(previous_utf8(text, i)) & kSpace)) break;
    text = text.substr(begin, end - begin);
  }
  bool cuts_at_newlines() const override { return false; }

 private:
  bool left_, right_;
};

class Replace final : public Normalizer {
 public:
  Replace(Pattern pattern, std::string content) : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void apply(std::string& text, bool) const override {
    std::vector<Span> spans;
    pattern_.find_all(text, spans);
    std::string out;
    out.reserve(text.size() + text.size() / 4);
    for (const Span& s : spans) s.match ? out.append(content_) : out.append(text, s.begin, s.end - s.begin);
    text.swap(out);
  }
  bool cuts_at_newlines() const override {
    return !pattern_.is_regex() && pattern_.text().find('\n') == std::string::npos;
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class Prepend final : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  void apply(std::string& text, bool continues) const override {
    if (!text.empty() && !continues) text.insert(0, prefix_);
  }

 private:
  std::string prefix_;
};

class ByteAlphabet final : public Normalizer {
 public:
  void apply(std::string& text, bool) const override {
    std::string out;
    for (const unsigned char b : text) append_utf8(out, byte_to_char(b));
    text.swap(out);
  }
  bool cuts_at_newlines() const override { return false; }
};

class Sequence final : public Normalizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<Normalizer>> steps) : steps_(std::move(steps)) {}
  void apply(std::string& text, bool continues) const override {
    for (const auto& s : steps_) s->apply(text, continues);
  }
  bool cuts_at_newlines() const override {
    return std::all_of(steps_.begin(), steps_.end(), [](const auto& s) { return s->cuts_at_newlines(); });
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> steps_;
};

}  // namespace

std::unique_ptr<Normalizer> make_prepend(std::string prefix) {
  return std::make_unique<Prepend>(std::move(prefix));
}
std::unique_ptr<Normalizer> make_replace(std::string from, std::string to) {
  return std::make_unique<Replace>(Pattern(std::move(from)), std::move(to));
}
std::unique_ptr<Normalizer> make_sequence(std::vector<std::unique_ptr<Normalizer>> steps) {
  return std::make_unique<Sequence>(std::move(steps));
}

std::unique_ptr<Normalizer> make_normalizer(const Json& spec, const std::string& where, int depth) {
  if (spec.is_null()) return nullptr;
  if (!spec.is_object()) wrong_type(where, "normalizer", "an object");
  if (depth > 8) throw Error(TN_E_FORMAT, where + ": normalizers are nested deeper than 8 levels");
  const std::string type = get_string(spec, "type", where);
  if (type == "Sequence") {
    std::vector<std::unique_ptr<Normalizer>> steps;
    for (const Json& s : get_array(spec, "normalizers", where))
      if (auto step = make_normalizer(s, where, depth + 1)) steps.push_back(std::move(step));
    return make_sequence(std::move(steps));
  }
  if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD")
    return std::make_unique<UnicodeForm>(type, where);
  if (type == "Lowercase") return std::make_unique<Lowercase>();
  if (type == "StripAccents") return std::make_unique<StripAccents>();
  if (type == "Strip")
    return std::make_unique<Strip>(bool_or(spec, "strip_left", true, where), bool_or(spec, "strip_right", true, where));
  if (type == "Replace") {
    const Json* pattern = member(spec, "pattern");
    return std::make_unique<Replace>(Pattern(pattern ? *pattern : Json(), where), get_string(spec, "content", where));
  }
  if (type == "Prepend") return make_prepend(get_string(spec, "prepend", where));
  if (type == "ByteLevel") return std::make_unique<ByteAlphabet>();
  throw Error(TN_E_UNSUPPORTED,
              where + ": the normalizer \"" + type +
                  "\" is not supported; known are Sequence, NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Strip, "
                  "Replace, Prepend and ByteLevel");
}

}  // namespace tenon::trainer
