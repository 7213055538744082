#include "hosts/trainer/text/tokenizer/decoder.h"

#include "core/error.h"
#include "hosts/trainer/text/tokenizer/model.h"
#include "hosts/trainer/text/tokenizer/pattern.h"
#include "hosts/trainer/text/unicode/utf8.h"

namespace tenon::trainer {
namespace {

using Tokens = std::vector<std::string>;

std::string joined(const Tokens& tokens) {
  std::string all;
  for (const auto& t : tokens) all += t;
  return all;
}

class ByteLevelDecoder final : public Decoder {
 public:
  void apply(Tokens& tokens) const override {
    std::string bytes, one;
    for (const auto& t : tokens) bytes += spelled_bytes(t, one) ? one : t;
    tokens.assign(1, replace_invalid_utf8(bytes));
  }
};

class ReplaceDecoder final : public Decoder {
 public:
  ReplaceDecoder(Pattern pattern, std::string content) : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void apply(Tokens& tokens) const override {
    std::vector<Span> spans;
    for (auto& t : tokens) {
      spans.clear();
      pattern_.find_all(t, spans);
      std::string out;
      for (const Span& s : spans) s.match ? out.append(content_) : out.append(t, s.begin, s.end - s.begin);
      t.swap(out);
    }
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class ByteFallbackDecoder final : public Decoder {
 public:
  void apply(Tokens& tokens) const override {
    Tokens out;
    std::string bytes;
    const auto flush = [&] {
      if (bytes.empty()) return;
      if (find_invalid_utf8(bytes) == std::string::npos)
        out.push_back(bytes);
      else
        out.insert(out.end(), bytes.size(), "\xEF\xBF\xBD");
      bytes.clear();
    };
    for (auto& t : tokens) {
      if (const int b = byte_of_token(t); b >= 0) {
        bytes += char(b);
      } else {
        flush();
        out.push_back(std::move(t));
      }
    }
    flush();
    tokens.swap(out);
  }
};

class FuseDecoder final : public Decoder {
 public:
  void apply(Tokens& tokens) const override { tokens.assign(1, joined(tokens)); }
};

class StripDecoder final : public Decoder {
 public:
  StripDecoder(std::string content, size_t start, size_t stop)
      : content_(std::move(content)), start_(start), stop_(stop) {}
  void apply(Tokens& tokens) const override {
    for (auto& t : tokens) {
      for (size_t i = 0; i < start_ && !content_.empty() && t.starts_with(content_); ++i) t.erase(0, content_.size());
      for (size_t i = 0; i < stop_ && !content_.empty() && t.ends_with(content_); ++i)
        t.resize(t.size() - content_.size());
    }
  }

 private:
  std::string content_;
  size_t start_, stop_;
};

class MetaspaceDecoder final : public Decoder {
 public:
  MetaspaceDecoder(std::string mark, bool prefixed) : mark_(std::move(mark)), prefixed_(prefixed) {}
  void apply(Tokens& tokens) const override {
    for (size_t i = 0; i < tokens.size(); ++i) {
      std::string out;
      const std::string& t = tokens[i];
      for (size_t at = 0; at < t.size();) {
        if (t.compare(at, mark_.size(), mark_) == 0) {
          if (i > 0 || !prefixed_) out += ' ';
          at += mark_.size();
        } else {
          out += t[at++];
        }
      }
      tokens[i].swap(out);
    }
  }

 private:
  std::string mark_;
  bool prefixed_;
};

class BpeDecoder final : public Decoder {
 public:
  explicit BpeDecoder(std::string suffix) : suffix_(std::move(suffix)) {}
  void apply(Tokens& tokens) const override {
    for (size_t i = 0; i < tokens.size() && !suffix_.empty(); ++i) {
      const std::string with = i + 1 < tokens.size() ? " " : "";
      for (size_t at = 0; (at = tokens[i].find(suffix_, at)) != std::string::npos; at += with.size())
        tokens[i].replace(at, suffix_.size(), with);
    }
  }

 private:
  std::string suffix_;
};

class SequenceDecoder final : public Decoder {
 public:
  explicit SequenceDecoder(std::vector<std::unique_ptr<Decoder>> steps) : steps_(std::move(steps)) {}
  void apply(Tokens& tokens) const override {
    for (const auto& s : steps_) s->apply(tokens);
  }

 private:
  std::vector<std::unique_ptr<Decoder>> steps_;
};

}  // namespace

std::unique_ptr<Decoder> make_decoder(const Json& spec, const std::string& where, int depth) {
  if (spec.is_null()) return nullptr;
  if (!spec.is_object()) wrong_type(where, "decoder", "an object");
  if (depth > 8)
    throw Error(TN_E_FORMAT, where + ": decoders are nested deeper than 8 levels, which no tokenizer needs");
  const std::string type = get_string(spec, "type", where);
  if (type == "Sequence") {
    std::vector<std::unique_ptr<Decoder>> steps;
    for (const Json& s : get_array(spec, "decoders", where))
      if (auto step = make_decoder(s, where, depth + 1)) steps.push_back(std::move(step));
    return std::make_unique<SequenceDecoder>(std::move(steps));
  }
  if (type == "ByteLevel") return std::make_unique<ByteLevelDecoder>();
  if (type == "ByteFallback") return std::make_unique<ByteFallbackDecoder>();
  if (type == "Fuse") return std::make_unique<FuseDecoder>();
  if (type == "Replace") {
    const Json* pattern = member(spec, "pattern");
    return std::make_unique<ReplaceDecoder>(Pattern(pattern ? *pattern : Json(), where),
                                            get_string(spec, "content", where));
  }
  if (type == "Strip")
    return std::make_unique<StripDecoder>(get_string(spec, "content", where),
                                          size_t(get_int(spec, "start", 0, 1024, where)),
                                          size_t(get_int(spec, "stop", 0, 1024, where)));
  if (type == "Metaspace") {
    const std::string mark = string_or(spec, "replacement", "\xE2\x96\x81", where);
    if (mark.empty()) wrong_type(where, "replacement", "one character");
    return std::make_unique<MetaspaceDecoder>(
        mark, string_or(spec, "prepend_scheme", bool_or(spec, "add_prefix_space", true, where) ? "always" : "never",
                        where) != "never");
  }
  if (type == "BPEDecoder") return std::make_unique<BpeDecoder>(string_or(spec, "suffix", "</w>", where));
  throw Error(TN_E_UNSUPPORTED,
              where + ": the decoder \"" + type +
                  "\" is not supported; known are Sequence, ByteLevel, ByteFallback, Fuse, Replace, Strip, "
                  "Metaspace and BPEDecoder");
}

}  // namespace tenon::trainer
