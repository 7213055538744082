#include "hosts/trainer/text/tokenizer/pre_tokenizer.h"

#include <algorithm>

#include "core/error.h"
#include "hosts/trainer/text/tokenizer/fast_splits.h"
#include "hosts/trainer/text/tokenizer/model.h"
#include "hosts/trainer/text/tokenizer/pattern.h"
#include "hosts/trainer/text/tokenizer/split_behavior.h"
#include "hosts/trainer/text/unicode/char_class.h"
#include "hosts/trainer/text/unicode/utf8.h"

namespace tenon::trainer {
namespace {

using Views = std::vector<std::string_view>;

// Replaces every piece by what `cut` appends for it; empty pieces vanish, as in the reference.
template <class Cut>
void for_pieces(Pieces& pieces, Cut cut) {
  std::vector<Pieces::Piece> result;
  result.reserve(pieces.list.size() * 2);
  Views views;
  for (const auto& piece : pieces.list) {
    views.clear();
    std::string_view whole = piece.text;
    cut(piece, whole, views);
    for (const auto& v : views)
      if (!v.empty()) result.push_back({v, v.data() == whole.data() ? piece.origin : Origin::kInside});
  }
  pieces.list.swap(result);
}

class Split final : public PreTokenizer {
 public:
  Split(Pattern pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {
    if (!pattern_.is_regex() || behavior != Behavior::kIsolated) return;  // isolated pieces are the same when inverted
    if (pattern_.text() == kGpt2Pattern) fast_ = split_gpt2;
    if (pattern_.text() == kLlama3Pattern) fast_ = [](std::string_view t, Views& out) { split_cl100k(t, 3, out); };
    if (pattern_.text() == kQwen2Pattern) fast_ = [](std::string_view t, Views& out) { split_cl100k(t, 1, out); };
  }
  void apply(Pieces& pieces) const override {
    std::vector<Span> spans;
    for_pieces(pieces, [&](const auto& piece, std::string_view&, Views& out) {
      if (fast_) return fast_(piece.text, out);
      spans.clear();
      pattern_.find_all(piece.text, spans);
      apply_behavior(piece.text, spans, behavior_, invert_, out);
    });
  }
  NewlineCut at_newline() const override {
    if (fast_) return NewlineCut::kAlways;
    return !pattern_.is_regex() && pattern_.text().find('\n') == std::string::npos ? NewlineCut::kKeeps
                                                                                   : NewlineCut::kNever;
  }

 private:
  Pattern pattern_;
  Behavior behavior_;
  bool invert_;
  void (*fast_)(std::string_view, Views&) = nullptr;
};

// Splits on the characters of a class.
class CharSplit final : public PreTokenizer {
 public:
  // `is` tells from a character's flags; white space must be in the class with \n, or not at all.
  CharSplit(bool (*is)(uint8_t), Behavior behavior) : is_(is), behavior_(behavior) {}
  void apply(Pieces& pieces) const override {
    const uint8_t* classes = char_class_table();
    std::vector<Span> spans;
    for_pieces(pieces, [&](const auto& piece, std::string_view&, Views& out) {
      spans.clear();
      size_t plain = 0;
      for (size_t i = 0; i < piece.text.size();) {
        const size_t at = i;
        if (!is_(classes[next_utf8(piece.text, i)])) continue;
        if (at > plain) spans.push_back({plain, at, false});
        spans.push_back({at, i, true});
        plain = i;
      }
      if (plain < piece.text.size()) spans.push_back({plain, piece.text.size(), false});
      apply_behavior(piece.text, spans, behavior_, false, out);
    });
  }
  NewlineCut at_newline() const override { return is_(kSpace) ? NewlineCut::kAlways : NewlineCut::kKeeps; }

 private:
  bool (*is_)(uint8_t);
  Behavior behavior_;
};

// \w+|[^\w\s]+ : runs of one class; white space is dropped.
class Whitespace final : public PreTokenizer {
 public:
  void apply(Pieces& pieces) const override {
    const uint8_t* classes = char_class_table();
    for_pieces(pieces, [&](const auto& piece, std::string_view&, Views& out) {
      const auto kind = [&](char32_t c) { return classes[c] & kWord ? 1 : classes[c] & kSpace ? 0 : 2; };
      for (size_t i = 0; i < piece.text.size();) {
        const size_t start = i;
        const int k = kind(next_utf8(piece.text, i));
        for (size_t j = i; j < piece.text.size() && kind(next_utf8(piece.text, j)) == k; i = j) {
        }
        if (k) out.push_back(piece.text.substr(start, i - start));
      }
    });
  }
  NewlineCut at_newline() const override { return NewlineCut::kAlways; }
};

class ByteLevel final : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, bool use_regex) : add_prefix_space_(add_prefix_space), use_regex_(use_regex) {}
  void apply(Pieces& pieces) const override {
    if (!add_prefix_space_ && !use_regex_ && !spell_) return;
    for_pieces(pieces, [&](const auto& piece, std::string_view& whole, Views& out) {
      if (add_prefix_space_ && piece.text[0] != ' ') whole = pieces.owned.emplace_back(" " + std::string(piece.text));
      const size_t first = out.size();
      if (use_regex_)
        split_gpt2(whole, out);
      else
        out.push_back(whole);
      if (!spell_) return;
      for (size_t i = first; i < out.size(); ++i) {
        std::string spelled;
        for (const unsigned char b : out[i]) append_utf8(spelled, byte_to_char(b));
        out[i] = pieces.owned.emplace_back(std::move(spelled));
        if (i == first) whole = out[i];
      }
    });
  }
  NewlineCut at_newline() const override {
    if (add_prefix_space_) return NewlineCut::kNever;
    return use_regex_ ? NewlineCut::kAlways : NewlineCut::kKeeps;
  }
  bool hand_over_bytes() override {
    spell_ = false;
    return true;
  }

 private:
  bool add_prefix_space_, use_regex_, spell_ = true;
};

enum class Scheme { kAlways, kFirst, kNever };

class Metaspace final : public PreTokenizer {
 public:
  Metaspace(std::string mark, Scheme scheme, bool split) : mark_(std::move(mark)), scheme_(scheme), split_(split) {}
  void apply(Pieces& pieces) const override {
    for_pieces(pieces, [&](const auto& piece, std::string_view& whole, Views& out) {
      std::string text;
      text.reserve(piece.text.size() + piece.text.size() / 2 + 4);
      for (const char c : piece.text) c == ' ' ? text.append(mark_) : text.append(1, c);
      const bool prefix = (scheme_ == Scheme::kAlways && piece.origin != Origin::kContinued) ||
                          (scheme_ == Scheme::kFirst && piece.origin == Origin::kStart);
      if (prefix && text.compare(0, mark_.size(), mark_) != 0) text.insert(0, mark_);
      whole = pieces.owned.emplace_back(std::move(text));
      if (!split_) return out.push_back(whole);
      size_t start = 0;
      for (size_t at = whole.find(mark_, 1); at != std::string_view::npos; at = whole.find(mark_, at + mark_.size())) {
        out.push_back(whole.substr(start, at - start));
        start = at;
      }
      out.push_back(whole.substr(start));
    });
  }
  NewlineCut at_newline() const override { return NewlineCut::kKeeps; }

 private:
  std::string mark_;
  Scheme scheme_;
  bool split_;
};

class Sequence final : public PreTokenizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<PreTokenizer>> steps) : steps_(std::move(steps)) {}
  void apply(Pieces& pieces) const override {
    for (const auto& s : steps_) s->apply(pieces);
  }
  NewlineCut at_newline() const override {
    for (const auto& s : steps_)
      if (s->at_newline() != NewlineCut::kKeeps) return s->at_newline();
    return NewlineCut::kKeeps;
  }
  bool hand_over_bytes() override { return !steps_.empty() && steps_.back()->hand_over_bytes(); }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> steps_;
};

Scheme parse_scheme(const Json& spec, const std::string& where) {
  const std::string name =
      string_or(spec, "prepend_scheme", bool_or(spec, "add_prefix_space", true, where) ? "always" : "never", where);
  if (name == "always") return Scheme::kAlways;
  if (name == "first") return Scheme::kFirst;
  if (name == "never") return Scheme::kNever;
  throw Error(TN_E_FORMAT, where + ": \"prepend_scheme\" is \"" + name + "\"; it must be always, first or never");
}

}  // namespace

std::unique_ptr<PreTokenizer> make_pre_tokenizer(const Json& spec, const std::string& where, int depth) {
  if (spec.is_null()) return nullptr;
  if (!spec.is_object()) wrong_type(where, "pre_tokenizer", "an object");
  if (depth > 8) throw Error(TN_E_FORMAT, where + ": pre-tokenizers are nested deeper than 8 levels");
  const std::string type = get_string(spec, "type", where);
  if (type == "Sequence") {
    std::vector<std::unique_ptr<PreTokenizer>> steps;
    for (const Json& s : get_array(spec, "pretokenizers", where))
      if (auto step = make_pre_tokenizer(s, where, depth + 1)) steps.push_back(std::move(step));
    return std::make_unique<Sequence>(std::move(steps));
  }
  if (type == "Split") {
    const Json* pattern = member(spec, "pattern");
    return std::make_unique<Split>(Pattern(pattern ? *pattern : Json(), where),
                                   parse_behavior(get_string(spec, "behavior", where), where),
                                   bool_or(spec, "invert", false, where));
  }
  if (type == "ByteLevel")
    return std::make_unique<ByteLevel>(bool_or(spec, "add_prefix_space", true, where),
                                       bool_or(spec, "use_regex", true, where));
  if (type == "Metaspace") {
    const std::string mark = string_or(spec, "replacement", "\xE2\x96\x81", where);
    if (mark.empty() || utf8_length(static_cast<unsigned char>(mark[0])) != mark.size())
      wrong_type(where, "replacement", "one character");
    return std::make_unique<Metaspace>(mark, parse_scheme(spec, where), bool_or(spec, "split", true, where));
  }
  if (type == "Digits")
    return std::make_unique<CharSplit>(
        [](uint8_t c) { return (c & kNumber) != 0; },
        bool_or(spec, "individual_digits", false, where) ? Behavior::kIsolated : Behavior::kContiguous);
  if (type == "Whitespace") return std::make_unique<Whitespace>();
  if (type == "WhitespaceSplit")
    return std::make_unique<CharSplit>([](uint8_t c) { return (c & kSpace) != 0; }, Behavior::kRemoved);
  if (type == "Punctuation")
    return std::make_unique<CharSplit>([](uint8_t c) { return (c & kPunctuation) != 0; },
                                       parse_behavior(string_or(spec, "behavior", "Isolated", where), where));
  if (type == "CharDelimiterSplit")
    return std::make_unique<Split>(Pattern(get_string(spec, "delimiter", where)), Behavior::kRemoved, false);
  throw Error(TN_E_UNSUPPORTED,
              where + ": the pre-tokenizer \"" + type +
                  "\" is not supported; known are Sequence, Split, ByteLevel, Metaspace, Digits, Whitespace, "
                  "WhitespaceSplit, Punctuation and CharDelimiterSplit");
}

}  // namespace tenon::trainer
