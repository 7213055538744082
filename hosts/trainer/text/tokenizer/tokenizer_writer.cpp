#include "hosts/trainer/text/tokenizer/tokenizer_writer.h"

#include <algorithm>

#include "hosts/trainer/text/json_input.h"
#include "hosts/trainer/text/tokenizer/gguf_steps.h"

namespace tenon::trainer {
namespace {

constexpr int64_t kLongestContext = int64_t{1} << 40;

// Appends without looking for the key among those before it, which would be quadratic in a vocabulary.
void append(OrderedJson& object, const std::string& key, OrderedJson value) {
  object.get_ref<OrderedJson::object_t&>().emplace_back(key, std::move(value));
}

OrderedJson vocabulary_of(const GgufVocabulary& v, const Vocabulary& index) {
  OrderedJson out = OrderedJson::object();
  for (uint32_t id = 0; id < v.tokens.size(); ++id)
    if (*index.find(v.tokens[id]) == id) append(out, v.tokens[id], id);
  return out;
}

OrderedJson added_tokens_of(const GgufVocabulary& v, const Vocabulary& index) {
  OrderedJson out = OrderedJson::array();
  for (uint32_t id = 0; id < v.token_types.size(); ++id) {
    const std::string& token = v.tokens[id];
    const bool control = v.token_types[id] == kGgufControl;
    if ((!control && v.token_types[id] != kGgufUserDefined) || token.empty() || *index.find(token) != id) continue;
    out.push_back({{"id", id},
                   {"content", token},
                   {"single_word", false},
                   {"lstrip", false},
                   {"rstrip", false},
                   {"normalized", false},
                   {"special", control}});
  }
  return out;
}

// "a b" is what every version of the reference reads; pairs are for tokens that hold a space themselves.
OrderedJson merges_of(const BpeOptions& options) {
  const bool spaced = std::any_of(options.merges.begin(), options.merges.end(), [](const auto& m) {
    return m.first.find(' ') != std::string::npos || m.second.find(' ') != std::string::npos;
  });
  OrderedJson out = OrderedJson::array();
  for (const auto& [a, b] : options.merges)
    out.push_back(spaced ? OrderedJson::array({a, b}) : OrderedJson(a + " " + b));
  return out;
}

OrderedJson post_processor_of(const GgufVocabulary& v, bool add_bos, bool add_eos) {
  OrderedJson single = OrderedJson::array(), pair = OrderedJson::array(), specials = OrderedJson::object();
  const auto token = [&](int64_t id, int type) -> OrderedJson {
    const std::string& text = v.tokens[size_t(id)];
    specials[text] = {{"id", text}, {"ids", {id}}, {"tokens", {text}}};
    return {{"SpecialToken", {{"id", text}, {"type_id", type}}}};
  };
  for (int type = 0; type < 2; ++type) {
    if (add_bos) pair.push_back(token(v.bos_id, type));
    pair.push_back({{"Sequence", {{"id", type ? "B" : "A"}, {"type_id", type}}}});
    if (add_eos) pair.push_back(token(v.eos_id, type));
    if (type == 0) single = pair;
  }
  if (specials.empty()) return nullptr;
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", specials}};
}

}  // namespace

std::string tokenizer_json_of(const GgufVocabulary& v, const std::string& where) {
  Tokenizer::from_gguf(v, where);  // refuses whatever is damaged or not known
  Vocabulary index;
  index.tokens = v.tokens;
  index.present.assign(v.tokens.size(), true);
  index.index();
  BpeOptions options;
  OrderedJson root = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}};
  root["added_tokens"] = added_tokens_of(v, index);
  const bool sentencepiece = v.model == "llama";
  bool adds_bos = sentencepiece;
  if (sentencepiece) {
    const bool prefixed = v.add_space_prefix.value_or(true);
    options = gguf_sentencepiece_bpe(v, index, where);
    root["normalizer"] = sentencepiece_normalizer(prefixed);
    root["pre_tokenizer"] = nullptr;
    root["decoder"] = sentencepiece_decoder(prefixed);
  } else {
    options = gguf_byte_level_bpe(v, where);
    const GgufPreTokenizer pre = gguf_pre_tokenizer(v.pre, where);
    options.ignore_merges = pre.ignore_merges, adds_bos = pre.adds_bos;
    root["normalizer"] = pre.nfc ? OrderedJson{{"type", "NFC"}} : OrderedJson();
    root["pre_tokenizer"] = pre.steps;
    root["decoder"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  }
  root["post_processor"] = post_processor_of(v, v.add_bos.value_or(adds_bos) && v.bos_id >= 0,
                                             v.add_eos.value_or(false) && v.eos_id >= 0);
  OrderedJson model = {{"type", "BPE"},
                       {"dropout", nullptr},
                       {"unk_token", nullptr},
                       {"continuing_subword_prefix", nullptr},
                       {"end_of_word_suffix", nullptr},
                       {"fuse_unk", options.fuse_unk},
                       {"byte_fallback", options.byte_fallback},
                       {"ignore_merges", options.ignore_merges}};
  if (options.has_unk) model["unk_token"] = options.unk_token;
  model["vocab"] = vocabulary_of(v, index);
  model["merges"] = merges_of(options);
  root["model"] = std::move(model);
  return root.dump(1) + "\n";
}

std::string tokenizer_config_of(const GgufVocabulary& v, const GgufFile& file) {
  OrderedJson out = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  const auto name = [&](const char* key, int64_t id) {
    if (id >= 0 && size_t(id) < v.tokens.size()) out[key] = v.tokens[size_t(id)];
  };
  name("bos_token", v.bos_id);
  name("eos_token", v.eos_id);
  name("unk_token", v.unk_id);
  name("pad_token", v.pad_id);
  if (const auto architecture = file.find_string("general.architecture"))
    if (const auto length = file.find_int(std::string(*architecture) + ".context_length", 1, kLongestContext))
      out["model_max_length"] = *length;
  if (const auto source = file.find_string("tokenizer.chat_template")) out["chat_template"] = *source;
  return out.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

}  // namespace tenon::trainer
