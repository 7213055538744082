// Tokenizer::from_json: tokenizer.json of Hugging Face `tokenizers`.
#include <cmath>

#include "core/error.h"
#include "hosts/trainer/text/json_input.h"
#include "hosts/trainer/text/tokenizer/tokenizer_parts.h"

namespace tenon::trainer {
namespace {

constexpr size_t kLongestToken = 1 << 20;

const Json& null_json() {
  static const Json null;
  return null;
}

const Json& member_or_null(const Json& object, const char* key) {
  const Json* m = member(object, key);
  return m ? *m : null_json();
}

void check_length(std::string_view token, const std::string& where) {
  if (token.size() > kLongestToken)
    throw Error(TN_E_FORMAT, where + ": a token of " + std::to_string(token.size()) + " bytes is over the limit of " +
                                 std::to_string(kLongestToken) + "; the file is damaged");
}

BpeOptions read_bpe(const Json& model, TokenizerBuilder& builder, const std::string& where) {
  std::vector<std::pair<std::string, uint32_t>> tokens;
  for (const auto& [token, id] : get_object(model, "vocab", where).items()) {
    check_length(token, where);
    tokens.emplace_back(token, token_id(id, "vocab", where));
  }
  builder.set_vocabulary(std::move(tokens));
  BpeOptions o;
  const Json& merges = get_array(model, "merges", where);
  o.merges.reserve(merges.size());
  for (const Json& m : merges) {
    if (m.is_string()) {
      const auto& text = m.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (o.merges.empty() && text.starts_with("#version")) continue;
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
        throw Error(TN_E_FORMAT, where + ": merge " + std::to_string(o.merges.size()) + " (\"" + text +
                                     "\") must be two tokens with one space between them; the file is damaged");
      o.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    } else if (m.is_array() && m.size() == 2 && m[0].is_string() && m[1].is_string()) {
      o.merges.emplace_back(m[0].get<std::string>(), m[1].get<std::string>());
    } else {
      wrong_type(where, "merges", "an array of strings \"a b\" or of pairs [\"a\", \"b\"]");
    }
  }
  o.has_unk = member(model, "unk_token") != nullptr;
  o.unk_token = string_or(model, "unk_token", "", where);
  o.subword_prefix = string_or(model, "continuing_subword_prefix", "", where);
  o.word_suffix = string_or(model, "end_of_word_suffix", "", where);
  o.fuse_unk = bool_or(model, "fuse_unk", false, where);
  o.byte_fallback = bool_or(model, "byte_fallback", false, where);
  o.ignore_merges = bool_or(model, "ignore_merges", false, where);
  return o;
}

UnigramOptions read_unigram(const Json& model, TokenizerBuilder& builder, const std::string& where) {
  std::vector<std::pair<std::string, uint32_t>> tokens;
  UnigramOptions o;
  for (const Json& entry : get_array(model, "vocab", where)) {
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number())
      wrong_type(where, "vocab", "an array of pairs [\"token\", score]");
    check_length(entry[0].get_ref<const std::string&>(), where);
    tokens.emplace_back(entry[0].get<std::string>(), uint32_t(tokens.size()));
    o.scores.push_back(entry[1].get<double>());
    if (!std::isfinite(o.scores.back())) wrong_type(where, "vocab", "an array of pairs with finite scores");
  }
  const size_t count = tokens.size();
  builder.set_vocabulary(std::move(tokens));
  if (member(model, "unk_id")) {
    o.has_unk = true;
    o.unk_id = uint32_t(get_int(model, "unk_id", 0, int64_t(count) - 1, where));
  }
  o.byte_fallback = bool_or(model, "byte_fallback", false, where);
  return o;
}

std::vector<AddedToken> read_added(const Json& root, const std::string& where) {
  std::vector<AddedToken> tokens;
  const Json* list = member(root, "added_tokens");
  if (!list) return tokens;
  if (!list->is_array()) wrong_type(where, "added_tokens", "an array");
  for (const Json& spec : *list) {
    if (!spec.is_object()) wrong_type(where, "added_tokens", "an array of objects");
    AddedToken t;
    t.id = token_id(member_or_null(spec, "id"), "id", where);
    t.content = get_string(spec, "content", where);
    check_length(t.content, where);
    t.special = bool_or(spec, "special", false, where);
    t.single_word = bool_or(spec, "single_word", false, where);
    t.lstrip = bool_or(spec, "lstrip", false, where);
    t.rstrip = bool_or(spec, "rstrip", false, where);
    t.normalized = bool_or(spec, "normalized", !t.special, where);
    tokens.push_back(std::move(t));
  }
  return tokens;
}

// Collects the tokens that the post-processor puts around a text.
struct PostProcessorReader {
  TokenizerBuilder& builder;
  const std::string& where;

  void read(const Json& spec, int depth = 0) {
    if (spec.is_null()) return;
    if (!spec.is_object() || depth > 8) wrong_type(where, "post_processor", "an object that is not nested deeply");
    const std::string type = get_string(spec, "type", where);
    if (type == "Sequence") {
      for (const Json& s : get_array(spec, "processors", where)) read(s, depth + 1);
    } else if (type == "TemplateProcessing") {
      read_template(spec);
    } else if (type == "BertProcessing" || type == "RobertaProcessing") {
      builder.parts->prefix.push_back(pair_id(spec, "cls"));
      builder.parts->suffix.push_back(pair_id(spec, "sep"));
    } else if (type != "ByteLevel") {  // which only moves offsets
      throw Error(TN_E_UNSUPPORTED, where + ": the post-processor \"" + type +
                                        "\" is not supported; known are Sequence, " +
                                        "TemplateProcessing, ByteLevel, BertProcessing and RobertaProcessing");
    }
  }

 private:
  int32_t pair_id(const Json& spec, const char* key) {
    const Json& pair = get_array(spec, key, where);
    if (pair.size() != 2) wrong_type(where, key, "a pair [\"token\", id]");
    return int32_t(token_id(pair[1], key, where));
  }
  void read_template(const Json& spec) {
    const Json* tokens = member(spec, "special_tokens");
    bool after = false;
    for (const Json& item : get_array(spec, "single", where)) {
      if (member(item, "Sequence")) {
        after = true;
        continue;
      }
      const Json* special = member(item, "SpecialToken");
      if (!special) wrong_type(where, "single", "an array of \"Sequence\" and \"SpecialToken\" objects");
      const std::string name = get_string(*special, "id", where);
      const Json* entry = tokens ? member(*tokens, name.c_str()) : nullptr;
      if (!entry)
        throw Error(TN_E_FORMAT, where + ": the post-processor names the token \"" + name +
                                     "\", which its \"special_tokens\" do not list; the file is damaged");
      for (const Json& id : get_array(*entry, "ids", where))
        (after ? builder.parts->suffix : builder.parts->prefix).push_back(int32_t(token_id(id, "ids", where)));
    }
  }
};

}  // namespace

Tokenizer Tokenizer::from_json(std::string_view bytes, const std::string& where) {
  const Json root = parse_json(bytes, where);
  const Json& model = get_object(root, "model", where);
  TokenizerBuilder builder;
  Parts& parts = *builder.parts;
  parts.where = where;
  parts.normalizer = make_normalizer(member_or_null(root, "normalizer"), where);
  parts.pre_tokenizer = make_pre_tokenizer(member_or_null(root, "pre_tokenizer"), where);
  parts.decoder = make_decoder(member_or_null(root, "decoder"), where);
  const std::string type = string_or(model, "type", member(model, "merges") ? "BPE" : "", where);
  if (type == "BPE") {
    BpeOptions options = read_bpe(model, builder, where);
    options.raw_bytes = parts.pre_tokenizer && options.subword_prefix.empty() && options.word_suffix.empty() &&
                        parts.pre_tokenizer->hand_over_bytes();
    parts.model = make_bpe(parts.vocabulary, options, where);
  } else if (type == "Unigram") {
    const UnigramOptions options = read_unigram(model, builder, where);
    parts.model = make_unigram(parts.vocabulary, options, where);
  } else {
    throw Error(TN_E_UNSUPPORTED,
                where + ": the tokenizer model \"" + type + "\" is not supported; known are BPE and Unigram");
  }
  builder.add_tokens(read_added(root, where));
  PostProcessorReader{builder, where}.read(member_or_null(root, "post_processor"));
  for (const int32_t id : parts.prefix)
    if (size_t(id) >= parts.vocabulary.tokens.size())
      wrong_type(where, "post_processor", "made of ids in the vocabulary");
  for (const int32_t id : parts.suffix)
    if (size_t(id) >= parts.vocabulary.tokens.size())
      wrong_type(where, "post_processor", "made of ids in the vocabulary");
  return builder.finish();
}

}  // namespace tenon::trainer
