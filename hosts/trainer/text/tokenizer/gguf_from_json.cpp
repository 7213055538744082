#include "hosts/trainer/text/tokenizer/gguf_from_json.h"

#include <filesystem>
#include <unordered_map>
#include <unordered_set>

#include "core/error.h"
#include "core/files/bytes.h"
#include "core/files/mapped_file.h"
#include "hosts/trainer/text/json_input.h"
#include "hosts/trainer/text/text_model.h"
#include "hosts/trainer/text/tokenizer/gguf_steps.h"

namespace tenon::trainer {
namespace {

constexpr int32_t kNormal = 1, kUnknown = 2, kUnused = 5, kByte = 6;
constexpr float kNeverMerged = -1e9f;

[[noreturn]] void refuse(const std::string& where, const std::string& what) {
  throw Error(TN_E_UNSUPPORTED, where + ": " + what + " has no name in GGUF; write a folder instead of a .gguf file");
}

const Json& member_or_null(const Json& object, const char* key) {
  static const Json null;
  const Json* m = member(object, key);
  return m ? *m : null;
}

std::string type_of(const Json& step, const std::string& where) { return step.is_object() ? get_string(step, "type", where) : ""; }

// A normalizer of no effect, or null.
bool does_nothing(const Json& step, const std::string& where) {
  if (step.is_null()) return true;
  if (type_of(step, where) != "Sequence") return false;
  for (const Json& s : get_array(step, "normalizers", where))
    if (!does_nothing(s, where)) return false;
  return true;
}

bool replaces_spaces(const Json& step, const std::string& where) {
  if (type_of(step, where) != "Replace") return false;
  const Json* pattern = member(step, "pattern");
  return pattern && string_or(*pattern, "String", "", where) == " " && get_string(step, "content", where) == kSpaceMark;
}

// How sentencepiece's white space is spelled out. Answers whether a space is put before a text.
bool sentencepiece_prefix(const Json& root, const std::string& where, std::vector<std::string>& notes) {
  const Json &normalizer = member_or_null(root, "normalizer"), &pre = member_or_null(root, "pre_tokenizer");
  if (does_nothing(normalizer, where) && type_of(pre, where) == "Metaspace") {
    if (string_or(pre, "replacement", kSpaceMark, where) != kSpaceMark || bool_or(pre, "split", true, where)) refuse(where, "a Metaspace step that splits words");
    const std::string scheme = string_or(pre, "prepend_scheme", bool_or(pre, "add_prefix_space", true, where) ? "always" : "never", where);
    if (scheme == "first") notes.push_back(where + " puts a space before a text; readers of GGUF put one after each special token too");
    return scheme != "never";
  }
  // Spaces are marks by then, so a split at spaces does nothing.
  if (!pre.is_null() && type_of(pre, where) != "Split") refuse(where, "the pre-tokenizer \"" + type_of(pre, where) + "\" of a sentencepiece model");
  if (replaces_spaces(normalizer, where)) return false;
  if (type_of(normalizer, where) == "Sequence") {
    const Json& steps = get_array(normalizer, "normalizers", where);
    if (steps.size() == 2 && type_of(steps[0], where) == "Prepend" && get_string(steps[0], "prepend", where) == kSpaceMark && replaces_spaces(steps[1], where))
      return true;
  }
  refuse(where, "the normalizer");
}

// Scores that order the tokens as the merges do. A token that no merge makes is kept from being made.
void set_scores(GgufVocabulary& v, const std::unordered_map<std::string, uint32_t>& ids, const std::string& where, std::vector<std::string>& notes) {
  v.scores.assign(v.tokens.size(), 0);
  std::vector<bool> made(v.tokens.size(), false);
  std::unordered_set<std::string> listed;
  for (size_t rank = 0; rank < v.merges.size(); ++rank) {
    std::string token = v.merges[rank];
    listed.insert(token);
    token.erase(token.find(' ', 1), 1);
    const auto at = ids.find(token);
    if (at == ids.end()) throw Error(TN_E_FORMAT, where + ": merge " + std::to_string(rank) + " makes \"" + token + "\", which is no token; the file is damaged");
    if (!made[at->second]) v.scores[at->second] = -static_cast<float>(rank);
    made[at->second] = true;
  }
  size_t more = 0;
  for (uint32_t id = 0; id < v.tokens.size(); ++id) {
    if (v.token_types[id] != kNormal) continue;
    const std::string& token = v.tokens[id];
    size_t ways = 0;
    for (size_t cut = 1; cut < token.size(); ++cut) {
      if ((static_cast<unsigned char>(token[cut]) & 0xC0) == 0x80) continue;
      const std::string left = token.substr(0, cut), right = token.substr(cut);
      if (!ids.contains(left) || !ids.contains(right)) continue;
      ++ways;
      if (made[id] && !listed.contains(left + " " + right)) ++more;
    }
    if (ways > 0 && !made[id]) v.scores[id] = kNeverMerged, v.token_types[id] = kUnused;
  }
  if (more > 0)
    notes.push_back(where + ": sentencepiece would merge " + std::to_string(more) + " pairs that the file does not list, so some ids may differ in a GGUF file");
  v.merges.clear();
}

void read_vocabulary(const Json& root, GgufVocabulary& v, std::unordered_map<std::string, uint32_t>& ids, const std::string& where,
                     std::vector<std::string>& notes) {
  const auto put = [&](const std::string& token, uint32_t id, int32_t type) {
    if (id >= v.tokens.size()) v.tokens.resize(id + 1), v.token_types.resize(id + 1, kUnused);
    v.tokens[id] = token, v.token_types[id] = type;
    ids[token] = id;
  };
  const Json& model = get_object(root, "model", where);
  for (const auto& [token, id] : get_object(model, "vocab", where).items()) put(token, token_id(id, "vocab", where), kNormal);
  const bool fallback = bool_or(model, "byte_fallback", false, where);
  for (uint32_t id = 0; fallback && id < v.tokens.size(); ++id)
    if (v.tokens[id].size() == 6 && v.tokens[id].starts_with("<0x") && v.tokens[id].back() == '>') v.token_types[id] = kByte;
  if (const Json* added = member(root, "added_tokens"))
    for (const Json& t : *added) {
      if (!t.is_object()) wrong_type(where, "added_tokens", "an array of objects");
      const std::string content = get_string(t, "content", where);
      for (const char* key : {"single_word", "lstrip", "rstrip"})
        if (bool_or(t, key, false, where)) notes.push_back(where + ": token \"" + content.substr(0, 60) + "\" has " + key + ", which readers of GGUF do not know");
      put(content, token_id(member_or_null(t, "id"), "id", where), bool_or(t, "special", false, where) ? kGgufControl : kGgufUserDefined);
    }
  for (uint32_t id = 0; id < v.tokens.size(); ++id)
    if (v.tokens[id].empty()) v.tokens[id] = "[PAD" + std::to_string(id) + "]";
  for (const Json& m : get_array(model, "merges", where)) {
    if (m.is_array() && m.size() == 2 && m[0].is_string() && m[1].is_string())
      v.merges.push_back(m[0].get<std::string>() + " " + m[1].get<std::string>());
    else if (m.is_string() && m.get_ref<const std::string&>().find(' ', 1) != std::string::npos)
      v.merges.push_back(m.get<std::string>());
    else if (!m.is_string() || !m.get_ref<const std::string&>().starts_with("#version"))
      wrong_type(where, "merges", "an array of strings \"a b\" or of pairs [\"a\", \"b\"]");
  }
}

// A GGUF file has as many tokens as rows of embedding: those behind them, which no text can use, are left out.
void keep_tokens(GgufVocabulary& v, size_t rows, const std::string& where, std::vector<std::string>& notes) {
  const std::unordered_set<std::string> gone(v.tokens.begin() + static_cast<std::ptrdiff_t>(rows), v.tokens.end());
  notes.push_back(where + " has " + std::to_string(v.tokens.size() - rows) + " tokens beyond the model's vocabulary of " + std::to_string(rows) + ", beginning with " +
                  quote_name(v.tokens[rows]) + "; the GGUF file is written without them");
  v.tokens.resize(rows), v.token_types.resize(rows);
  if (!v.scores.empty()) v.scores.resize(rows);
  std::erase_if(v.merges, [&](const std::string& merge) {
    const size_t cut = merge.find(' ', 1);
    const std::string left = merge.substr(0, cut), right = merge.substr(cut + 1);
    return gone.contains(left) || gone.contains(right) || gone.contains(left + right);
  });
  if (v.unk_id >= static_cast<int64_t>(rows)) v.unk_id = -1;
}

}  // namespace

GgufVocabulary gguf_vocabulary_of(std::string_view text, const std::string& where, std::vector<std::string>& notes) {
  Tokenizer::from_json(text, where);  // refuses whatever is damaged or not known
  const Json root = parse_json(text, where);
  const Json& model = get_object(root, "model", where);
  if (string_or(model, "type", "BPE", where) != "BPE") refuse(where, "a tokenizer of the type Unigram");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!string_or(model, key, "", where).empty()) refuse(where, std::string("a BPE model with ") + key);
  GgufVocabulary v;
  std::unordered_map<std::string, uint32_t> ids;
  read_vocabulary(root, v, ids, where, notes);
  if (bool_or(model, "byte_fallback", false, where)) {
    v.model = "llama", v.pre = "default";
    v.add_space_prefix = sentencepiece_prefix(root, where, notes);
    if (const std::string unknown = string_or(model, "unk_token", "", where); ids.contains(unknown)) v.unk_id = ids[unknown], v.token_types[ids[unknown]] = kUnknown;
    set_scores(v, ids, where, notes);
  } else {
    v.model = "gpt2";
    v.pre = gguf_pre_tokenizer_name(root, where);
  }
  return v;
}

GgufVocabulary gguf_vocabulary_of_folder(const std::string& folder, int64_t rows, std::vector<std::string>& notes) {
  const std::string path = (std::filesystem::path(folder) / "tokenizer.json").string();
  const MappedFile file(path);
  GgufVocabulary v = gguf_vocabulary_of(as_text(file.bytes()), path, notes);
  if (static_cast<int64_t>(v.tokens.size()) > rows) keep_tokens(v, static_cast<size_t>(rows), path, notes);
  while (static_cast<int64_t>(v.tokens.size()) < rows) {
    v.tokens.push_back("[PAD" + std::to_string(v.tokens.size()) + "]"), v.token_types.push_back(kUnused);
    if (!v.scores.empty()) v.scores.push_back(kNeverMerged);
  }
  const TextModel text = load_text_model(folder);
  const auto id_of = [&](const std::optional<int32_t>& id) { return id && *id < rows ? int64_t{*id} : -1; };
  v.bos_id = id_of(text.bos_id), v.eos_id = id_of(text.eos_id), v.pad_id = id_of(text.pad_id);
  // What the post-processor puts around a text is all that it says of an empty one.
  const std::vector<int32_t> around = text.tokenizer.encode("", true);
  const bool bos = !around.empty() && v.bos_id >= 0 && around.front() == v.bos_id;
  const bool eos = !around.empty() && v.eos_id >= 0 && around.back() == v.eos_id && (around.size() > 1 || !bos);
  if (around.size() != size_t{bos} + size_t{eos}) refuse(path, "a post-processor that adds other tokens than the first and the last");
  v.add_bos = bos, v.add_eos = eos;
  return v;
}

void put_gguf_vocabulary(const GgufVocabulary& v, GgufMetadata& m) {
  const auto key = [](const char* name) { return std::string("tokenizer.ggml.") + name; };
  m.set_string(key("model"), v.model);
  m.set_string(key("pre"), v.pre);
  m.set_strings(key("tokens"), v.tokens);
  if (!v.scores.empty()) m.set_f32s(key("scores"), v.scores);
  m.set_i32s(key("token_type"), v.token_types);
  if (!v.merges.empty()) m.set_strings(key("merges"), v.merges);
  const auto id = [&](const char* name, int64_t value) {
    if (value >= 0) m.set_u32(key(name), static_cast<uint32_t>(value));
  };
  id("bos_token_id", v.bos_id), id("eos_token_id", v.eos_id), id("unknown_token_id", v.unk_id), id("padding_token_id", v.pad_id);
  if (v.add_space_prefix) m.set_bool(key("add_space_prefix"), *v.add_space_prefix);
  if (v.add_bos) m.set_bool(key("add_bos_token"), *v.add_bos);
  if (v.add_eos) m.set_bool(key("add_eos_token"), *v.add_eos);
}

}  // namespace tenon::trainer
