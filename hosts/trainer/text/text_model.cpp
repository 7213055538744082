#include "hosts/trainer/text/text_model.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/files/bytes.h"
#include "core/files/mapped_file.h"
#include "hosts/trainer/text/json_input.h"
#include "hosts/trainer/text/tokenizer/gguf_vocabulary.h"

namespace tenon::trainer {
namespace {

namespace fs = std::filesystem;

std::string_view text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

// tokenizer_config.json spells a token as a string or as an object with "content".
std::string special_token(const Json& config, const char* key, const std::string& where) {
  const Json* m = member(config, key);
  if (m && m->is_object()) return get_string(*m, "content", where);
  return string_or(config, key, "", where);
}

// A string, or a list of named templates, of which "default" is meant.
std::optional<std::string> template_of(const Json& config, const std::string& where) {
  const Json* m = member(config, "chat_template");
  if (!m) return std::nullopt;
  if (m->is_string()) return m->get<std::string>();
  if (!m->is_array()) wrong_type(where, "chat_template", "a string or an array of named templates");
  for (const Json& entry : *m)
    if (entry.is_object() && string_or(entry, "name", "", where) == "default")
      return get_string(entry, "template", where);
  return std::nullopt;
}

// An id of config.json, which writes one or a list, whose first is meant.
std::optional<int32_t> config_id(const Json& config, const char* key, const std::string& where) {
  const Json* m = member(config, key);
  if (m && m->is_array()) m = m->empty() ? nullptr : &(*m)[0];
  if (!m || (m->is_number_integer() && m->get<int64_t>() < 0)) return std::nullopt;  // -1 stands for none in some files
  return int32_t(token_id(*m, key, where));
}

// The template and the file that it is in.
std::optional<std::pair<std::string, std::string>> find_template(const std::string& folder) {
  std::error_code ignored;
  const std::string jinja_path = (fs::path(folder) / "chat_template.jinja").string();
  if (fs::exists(jinja_path, ignored)) return std::pair{std::string(text_of(MappedFile(jinja_path))), jinja_path};
  const std::string config_path = (fs::path(folder) / "tokenizer_config.json").string();
  if (!fs::exists(config_path, ignored)) return std::nullopt;
  if (auto text = template_of(read_json_file(config_path), config_path)) return std::pair{std::move(*text), config_path};
  return std::nullopt;
}

void settle(TextModel& model, std::string& token, std::optional<int32_t>& id) {
  if (!token.empty() && !id) id = model.tokenizer.id_of(token);
  if (token.empty() && id) token = model.tokenizer.token_of(*id);
}

TextModel load_folder(const std::string& folder) {
  const std::string path = (fs::path(folder) / "tokenizer.json").string();
  std::error_code ignored;
  if (!fs::exists(path, ignored))
    throw Error(TN_E_NOT_FOUND,
                fs::exists(fs::path(folder) / "tokenizer.model", ignored)
                    ? folder + ": the folder has a tokenizer.model but no tokenizer.json; save the tokenizer again with transformers, which writes the latter, or name another with --tokenizer"
                    : folder + ": the folder has no tokenizer.json; add the tokenizer that the model was trained with, or name one with --tokenizer");
  const MappedFile file(path);
  TextModel model{Tokenizer::from_json(text_of(file), path), {}, {}, {}, {}, {}, {}};
  std::string pad_token;
  const std::string config_path = (fs::path(folder) / "tokenizer_config.json").string();
  if (fs::exists(config_path, ignored)) {
    const Json config = read_json_file(config_path);
    model.bos_token = special_token(config, "bos_token", config_path);
    model.eos_token = special_token(config, "eos_token", config_path);
    pad_token = special_token(config, "pad_token", config_path);
  }
  if (const auto source = find_template(folder)) model.chat_template.emplace(source->first, source->second);
  settle(model, model.bos_token, model.bos_id);
  settle(model, model.eos_token, model.eos_id);
  settle(model, pad_token, model.pad_id);
  const std::string model_path = (fs::path(folder) / "config.json").string();
  if (fs::exists(model_path, ignored)) {
    const Json config = read_json_file(model_path);
    if (!model.bos_id) model.bos_id = config_id(config, "bos_token_id", model_path);
    if (!model.eos_id) model.eos_id = config_id(config, "eos_token_id", model_path);
    if (!model.pad_id) model.pad_id = config_id(config, "pad_token_id", model_path);
    settle(model, model.bos_token, model.bos_id);
    settle(model, model.eos_token, model.eos_id);
  }
  return model;
}

}  // namespace

void TextModel::require_rows(std::span<const int32_t> ids, const std::string& where) const {
  const auto found = std::find_if(ids.begin(), ids.end(), [&](int32_t id) { return id >= rows; });
  if (found == ids.end()) return;
  throw Error(TN_E_CONFLICT, where + " uses the token " + quote_name(tokenizer.token_of(*found)) + ", whose id " + std::to_string(*found) +
                                 " is beyond the model's vocabulary of " + std::to_string(rows) + "; leave the token out, or use a model that was trained with it");
}

TextModel load_text_model(const std::string& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    TextModel model = load_folder(path);
    model.path = path;
    return model;
  }
  if (!fs::exists(path, ignored)) throw Error(TN_E_NOT_FOUND, path + ": there is no such file or folder; name a model");
  if (fs::path(path).filename() == "tokenizer.json") return load_text_model(fs::path(path).parent_path().empty() ? "." : fs::path(path).parent_path().string());
  return load_text_model(GgufFile::open(path));
}

std::optional<std::string> chat_template_text(const std::string& folder) {
  const auto source = find_template(folder);
  return source ? std::optional(source->first) : std::nullopt;
}

TextModel load_text_model(const GgufFile& file) {
  TextModel model{Tokenizer::from_gguf(read_gguf_vocabulary(file), file.path()), {}, {}, {}, {}, {}, {}};
  model.bos_id = model.tokenizer.bos_id();
  model.eos_id = model.tokenizer.eos_id();
  model.pad_id = model.tokenizer.pad_id();
  settle(model, model.bos_token, model.bos_id);
  settle(model, model.eos_token, model.eos_id);
  if (const auto source = file.find_string("tokenizer.chat_template"))
    model.chat_template.emplace(*source, file.path());
  model.path = file.path();
  return model;
}

}  // namespace tenon::trainer
