#include "hosts/trainer/text/tokenizer/gguf_vocabulary.h"

#include "core/error.h"

namespace tenon::trainer {

GgufVocabulary read_gguf_vocabulary(const GgufFile& file) {
  const auto key = [](const char* name) { return std::string("tokenizer.ggml.") + name; };
  GgufVocabulary v;
  const auto model = file.find_string(key("model"));
  if (!model)
    throw Error(TN_E_NOT_FOUND, file.path() +
                                    ": the file carries no tokenizer (tokenizer.ggml.model is absent); name a file or "
                                    "folder that has one");
  v.model = *model;
  v.pre = file.find_string(key("pre")).value_or("");
  for (const auto token : file.strings(key("tokens"))) v.tokens.emplace_back(token);
  for (const auto merge : file.strings(key("merges"))) v.merges.emplace_back(merge);
  for (const double score : file.doubles(key("scores"))) v.scores.push_back(float(score));
  for (const int64_t type : file.ints(key("token_type")))
    v.token_types.push_back(type >= 0 && type < 16 ? int32_t(type) : 0);
  const auto id = [&](const char* name) { return file.find_int(key(name), 0, (1 << 24) - 1).value_or(-1); };
  v.bos_id = id("bos_token_id");
  v.eos_id = id("eos_token_id");
  v.unk_id = id("unknown_token_id");
  v.pad_id = id("padding_token_id");
  v.add_space_prefix = file.find_bool(key("add_space_prefix"));
  v.add_bos = file.find_bool(key("add_bos_token"));
  v.add_eos = file.find_bool(key("add_eos_token"));
  return v;
}

}  // namespace tenon::trainer
