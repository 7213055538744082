// The pre-tokenizers that GGUF files name, each as the model family's own tokenizer.json spells it.
#include <algorithm>
#include <array>
#include <span>
#include <string_view>

#include "core/error.h"
#include "hosts/trainer/text/tokenizer/fast_splits.h"
#include "hosts/trainer/text/tokenizer/gguf_steps.h"

namespace tenon::trainer {
namespace {

constexpr const char* kO200kPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kTekkenPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
    R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen35Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|)"
    R"(\s+(?!\S)|\s+)";
constexpr const char* kSeedCoderPattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kNewline = "[\r\n]";
constexpr const char* kEastAsian = "[一-龥ࠀ-一가-퟿]+";
// Letters that have case, spelled by number: some of them change when a text is composed.
constexpr const char* kDeepseekWords =
    "\\s?["
    "A-Za-z\u00B5\u00C0-\u00D6\u00D8-\u00F6\u00F8-\u01BA\u01BC-\u01BF\u01C4-\u0293\u0295-\u02AF"
    "\u0370-\u0373\u0376\u0377\u037B-\u037D\u037F\u0386\u0388-\u038A\u038C\u038E-\u03A1\u03A3-\u03F5"
    "\u03F7-\u0481\u048A-\u052F\u0531-\u0556\u10A0-\u10C5\u13A0-\u13F5\u13F8-\u13FD\u1C90-\u1CBA"
    "\u1CBD-\u1CBF\u1D00-\u1D2B\u1D6B-\u1D77\u1D79-\u1D9A\u1E00-\u1F15\u1F18-\u1F1D\u1F20-\u1F45"
    "\u1F48-\u1F4D\u1F50-\u1F57\u1F59\u1F5B\u1F5D\u1F5F-\u1F7D\u1F80-\u1FB4\u1FB6-\u1FBC\u1FBE"
    "\u1FC2-\u1FC4\u1FC6-\u1FCC\u1FD0-\u1FD3\u1FD6-\u1FDB\u1FE0-\u1FEC\u1FF2-\u1FF4\u1FF6-\u1FFC\u2102"
    "\u2107\u210A-\u2113\u2115\u2119-\u211D\u2124\u2126\u2128\u212A-\u212D\u212F-\u2134\u2139"
    "\u213C-\u213F\u2145-\u2149\u214E\u2183\u2184\u2C00-\u2C7B\u2C7E-\u2CE4\u2CEB-\u2CEE\u2CF2\u2CF3"
    "\uA640-\uA66D\uA680-\uA69B\uA722-\uA76F\uA771-\uA787\uA78B-\uA78E\uAB70-\uABBF\uFB00-\uFB06"
    "\uFB13-\uFB17\uFF21-\uFF3A\uFF41-\uFF5A\U00010400-\U0001044F\U000104B0-\U000104D3"
    "\U000104D8-\U000104FB\U00010C80-\U00010CB2\U00010CC0-\U00010CF2\U000118A0-\U000118DF"
    "\U0001E900-\U0001E943"
    "]+";
constexpr const char* kDeepseekSigns = R"(\s?[!-/:-~！-／：-～‘-‟　-。]+)";
constexpr const char* kDeepseek3Words =
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
    "?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";
constexpr const char* kBloomPattern = R"( ?[^(\s|[.,!?…。，、।۔،])]+)";

Json split(const char* pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}
Json digits(bool individual) {
  return {{"type", "Digits"}, {"individual_digits", individual}};
}
Json byte_level(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}
Json sequence(std::initializer_list<Json> steps) {
  return {{"type", "Sequence"}, {"pretokenizers", Json(Json::array_t(steps))}};
}
// Splits one after the other, then the bytes.
Json splits(std::initializer_list<const char*> patterns) {
  Json::array_t steps;
  for (const char* p : patterns) steps.push_back(split(p));
  steps.push_back(byte_level(false));
  return {{"type", "Sequence"}, {"pretokenizers", Json(steps)}};
}

using Name = std::string_view;
constexpr Name kGpt2[] = {"gpt-2",      "gpt2",       "phi-2",        "mpt",      "olmo",    "roberta-bpe", "jina-es",
                          "jina-de",    "jina-v1-en", "jina-v2-es",   "jina-v2-de", "jina-v2-code", "gigachat", "a.x-4.0",
                          "mellum",     "modern-bert", "exaone4",     "jais",     "trillion", "granite-docling", "",
                          "default"};
constexpr Name kDigits[] = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"};
constexpr Name kLlama3[] = {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"};
constexpr Name kCl100k[] = {"dbrx", "smaug-bpe", "chatglm-bpe", "glm4"};
constexpr Name kQwen2[] = {"qwen2"};
constexpr Name kQwen2Alike[] = {"stablelm2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "hunyuan", "solar-open", "grok-2"};
constexpr Name kQwen35[] = {"qwen35"};
constexpr Name kO200k[] = {"gpt-4o", "llama4", "minimax-m2"};
constexpr Name kTekken[] = {"tekken"};
constexpr Name kDeepseekLlm[] = {"deepseek-llm"};
constexpr Name kDeepseekCoder[] = {"deepseek-coder"};
constexpr Name kDeepseek3[] = {"deepseek-v3", "hunyuan-dense", "joyai-llm"};
constexpr Name kFalcon[] = {"falcon"};
constexpr Name kBloom[] = {"bloom", "poro-chat", "gpt3-finnish"};
constexpr Name kViking[] = {"viking"};
constexpr Name kSeedCoder[] = {"seed-coder"};

struct Family {
  std::span<const Name> names;
  Json (*steps)();
  bool ignore_merges = false, adds_bos = false, nfc = false;
};
constexpr Family kFamilies[] = {
    {kGpt2, [] { return byte_level(true); }},
    {kDigits, [] { return sequence({digits(true), byte_level(true)}); }},
    {kLlama3, [] { return splits({kLlama3Pattern}); }, true, true},
    {kCl100k, [] { return splits({kLlama3Pattern}); }},
    {kQwen2, [] { return splits({kQwen2Pattern}); }, false, false, true},
    {kQwen2Alike, [] { return splits({kQwen2Pattern}); }},
    {kQwen35, [] { return splits({kQwen35Pattern}); }, false, false, true},
    {kO200k, [] { return splits({kO200kPattern}); }},
    {kTekken, [] { return splits({kTekkenPattern}); }, true, true},
    {kDeepseekLlm,
     [] {
       return sequence({split(kNewline), split(kDeepseekWords), split(kDeepseekSigns), split(R"(\s+$)"), split(kEastAsian),
                        digits(true), byte_level(false)});
     }},
    {kDeepseekCoder,
     [] {
       return sequence({split(kNewline), split(R"(\s?\p{L}+)"), split(R"(\s?\p{P}+)"), split(kEastAsian), digits(true),
                        byte_level(false)});
     }},
    {kDeepseek3, [] { return splits({R"(\p{N}{1,3})", "[一-龥぀-ゟ゠-ヿ]+", kDeepseek3Words}); }},
    {kFalcon,
     [] {
       return sequence({{{"type", "Punctuation"}, {"behavior", "Contiguous"}}, byte_level(true), digits(false),
                        split("[0-9][0-9][0-9]")});
     }},
    {kBloom, [] { return splits({kBloomPattern}); }},
    {kViking, [] { return sequence({split(kBloomPattern), digits(true), byte_level(false)}); }},
    {kSeedCoder, [] { return splits({kSeedCoderPattern}); }},
};

// One spelling for steps that do the same: defaults written out, what only moves offsets left out.
Json canonical(const Json& step) {
  if (!step.is_object() || !step.contains("type") || !step["type"].is_string()) return step;
  const std::string type = step["type"];
  if (type == "Sequence" && step.contains("pretokenizers") && step["pretokenizers"].is_array()) {
    Json list = Json::array();
    for (const Json& s : step["pretokenizers"]) list.push_back(canonical(s));
    return list.size() == 1 ? list[0] : list;
  }
  Json out = step;
  const auto fill = [&](const char* key, Json value) {
    if (!out.contains(key) || out[key].is_null()) out[key] = std::move(value);
  };
  if (type == "ByteLevel") fill("use_regex", true), fill("add_prefix_space", true), out.erase("trim_offsets");
  if (type == "Digits") fill("individual_digits", false);
  if (type == "Split") fill("invert", false);
  if (type == "Punctuation") fill("behavior", "Isolated");
  return out;
}

// 0: none, 1: NFC, −1: another.
int composition(const Json& normalizer) {
  if (normalizer.is_null()) return 0;
  if (normalizer.is_object() && normalizer.value("type", Json()) == "NFC") return 1;
  if (normalizer.is_object() && normalizer.value("type", Json()) == "Sequence") {
    const Json steps = normalizer.value("normalizers", Json());
    if (steps.is_array() && steps.empty()) return 0;
    if (steps.is_array() && steps.size() == 1) return composition(steps[0]);
  }
  return -1;
}

}  // namespace

GgufPreTokenizer gguf_pre_tokenizer(const std::string& pre, const std::string& where) {
  for (const Family& f : kFamilies)
    if (std::find(f.names.begin(), f.names.end(), pre) != f.names.end())
      return {f.steps(), f.ignore_merges, f.adds_bos, f.nfc};
  throw Error(TN_E_UNSUPPORTED, where + ": the pre-tokenizer \"" + pre +
                                    "\" (tokenizer.ggml.pre) is not known; train from the Hugging Face folder, whose "
                                    "tokenizer.json spells it out");
}

std::string gguf_pre_tokenizer_name(const Json& root, const std::string& where) {
  const Json none, steps = canonical(root.value("pre_tokenizer", none));
  const Json* model = member(root, "model");
  const bool ignore_merges = model && bool_or(*model, "ignore_merges", false, where);
  const int composed = composition(root.value("normalizer", none));
  for (const Family& f : kFamilies)
    if (composed == int{f.nfc} && ignore_merges == f.ignore_merges && canonical(f.steps()) == steps)
      return std::string(f.names[0]);
  throw Error(TN_E_UNSUPPORTED, where + ": GGUF has no name for this normalizer and pre-tokenizer together, and readers "
                                        "would split texts differently; write a folder instead of a .gguf file");
}

}  // namespace tenon::trainer
