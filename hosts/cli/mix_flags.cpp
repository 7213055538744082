#include "hosts/cli/mix_flags.h"

#include <omp.h>

#include <filesystem>

#include "core/error.h"
#include "core/files/mapped_file.h"
#include "hosts/trainer/text/byte_tokenizer.h"
#include "hosts/trainer/text/unicode/utf8.h"

namespace tenon::cli {

void add_mix_flags(po::options_description& options, bool training) {
  auto add = options.add_options();
  if (training) {
    add("optimizer", po::value<std::string>()->default_value("adamw"), "optimizer plugin, as ID or ID:key=value,key=value; several at once: \"muon:lr=0.02 for matrices, adamw for rest\"");
    add("adapter", po::value<std::vector<std::string>>()->composing(), "adapter plugin, e.g. lora:r=16,target_modules=all-linear; may be given again");
  }
  add("adapter-from", po::value<std::vector<std::string>>()->composing(), "PEFT folder that shapes and fills the adapter; may be given again");
  add("quantizer", po::value<std::string>(), "quantizer plugin that holds the linear weights, e.g. nf4:double_quant=true; none: decode a model that is stored quantized");
  add("calibration", po::value<std::string>(),
      training ? "text with which a quantizer that asks for it codes the weights (gptq); default: --data" : "text with which a quantizer that asks for it codes the weights (gptq)");
  if (training) {
    add("activations", po::value<std::string>(), "quantizer that holds what forward saves for backward, e.g. mesa-act8");
    add("states", po::value<std::string>(), "quantizer that holds the optimizer's f32 states of matrices between updates, e.g. coat-fp8");
  }
  if (!training) add("kv-cache", po::value<std::string>(), "quantizer that holds keys and values of tokens outside of a window, e.g. blockwise-8bit:blocksize=64 or cskv:ratio_k=0.5");
  add("attention", po::value<std::string>()->default_value(trainer::kDefaultAttention), "attention plugin; default: that which the model was trained with");
  add("weight-budget", po::value<std::string>(), "bytes of weights that come in segments (bitstack): as many segments as fit are loaded, e.g. 60MB");
  add("device", po::value<std::string>()->default_value("auto"), "auto, or the id of a device plugin: onednn, cuda, hip");
  add("dtype", po::value<std::string>()->default_value("f32"), "weights and activations: f32 or bf16");
  add("memory-limit", po::value<std::string>(), "refuse to use more than this, e.g. 800MB or 4GiB");
  add("threads", po::value<std::string>(), "CPU threads; default: all");
}

void add_embedding_flag(po::options_description& options) {
  options.add_options()("embeddings", po::value<std::string>(),
                        "quantizer that holds the embedding and the head, which then stay as they are, e.g. gguf-blocks:type=Q8_0");
}

void add_model_flags(po::options_description& options) {
  auto add = options.add_options();
  add("model", po::value<std::string>(), "Hugging Face folder, .gguf file, or preset:NAME (9m, 60m, 130m, 350m, 1b, 7b …) from random weights");
  add("tokenizer", po::value<std::string>(), "folder or file to take the tokenizer from; a preset without one reads bytes");
  add("vocab-size", po::value<std::string>(), "vocabulary of a preset; default: that of its tokenizer");
}

trainer::MixRequest mix_request(const Catalog& catalog, const po::variables_map& values, bool training) {
  trainer::MixRequest r;
  if (training) {
    r.optimizer = values["optimizer"].as<std::string>();
    r.activations = value_or<std::string>(values, "activations", ""), r.states = value_or<std::string>(values, "states", "");
    if (values.count("adapter")) r.adapters = values["adapter"].as<std::vector<std::string>>();
  }
  if (values.count("adapter-from")) r.adapter_from = values["adapter-from"].as<std::vector<std::string>>();
  if (values.count("model")) r.stored_quantizer = trainer::stored_quantizer(catalog, values["model"].as<std::string>());
  r.quantizer = value_or<std::string>(values, "quantizer", r.stored_quantizer);
  if (r.quantizer == "none") r.quantizer.clear();
  r.embeddings = value_or<std::string>(values, "embeddings", "");
  if (!training) r.kv_cache = value_or<std::string>(values, "kv-cache", "");
  if (values.count("weight-budget")) r.weight_budget = parse_size(values["weight-budget"].as<std::string>(), "--weight-budget");
  r.attention = values["attention"].as<std::string>();
  if (values["attention"].defaulted() && values.count("model")) r.attention = trainer::stored_attention(values["model"].as<std::string>());
  r.device = values["device"].as<std::string>();
  return r;
}

trainer::ModelSource open_model(const po::variables_map& values) {
  const std::string model = required(values, "model");
  int64_t vocab = trainer::kByteVocabulary;
  if (values.count("vocab-size"))
    vocab = checked_int(values, "vocab-size", 2, 1 << 24);
  else if (values.count("tokenizer") && model.starts_with("preset:"))
    vocab = static_cast<int64_t>(trainer::load_text_model(values["tokenizer"].as<std::string>()).tokenizer.vocabulary_size());
  return trainer::ModelSource::open(model, vocab);
}

trainer::TextModel open_text_model(const po::variables_map& values, const trainer::ModelSource& source) {
  const bool chosen = values.count("tokenizer") > 0;
  trainer::TextModel text = chosen               ? trainer::load_text_model(values["tokenizer"].as<std::string>())
                            : source.is_preset() ? trainer::byte_text_model()
                            : source.gguf()      ? trainer::load_text_model(*source.gguf())
                                                 : trainer::load_text_model(source.path());
  const auto has = static_cast<int64_t>(text.tokenizer.vocabulary_size()), wants = source.config().vocab;
  text.rows = wants;
  // A model's own tokenizer may have tokens that were added after its training; another one is the wrong one.
  if (has <= wants || !(chosen || source.is_preset())) return text;
  const std::string whose = chosen ? "--tokenizer " + values["tokenizer"].as<std::string>() : "the tokenizer of bytes";
  throw Error(TN_E_CONFLICT, whose + " has ids up to " + std::to_string(has - 1) + ", but the model has " + std::to_string(wants) + " tokens; " +
                                 (source.is_preset() ? "leave --vocab-size out or raise it" : "use the tokenizer that the model was trained with"));
}

tn_dtype written_dtype(const po::variables_map& values, const trainer::ModelSource& source) {
  const std::string& stored = source.config().file_dtype;
  const std::string dtype = !values["dtype"].defaulted() ? values["dtype"].as<std::string>() : stored == "bfloat16" ? "bf16" : stored == "float16" ? "f16" : "f32";
  return dtype == "f16" ? trainer::kF16 : trainer::parse_dtype(dtype);
}

uint64_t memory_limit(const po::variables_map& values) {
  return values.count("memory-limit") ? parse_size(values["memory-limit"].as<std::string>(), "--memory-limit") : 0;
}

void apply_threads(const po::variables_map& values) {
  if (values.count("threads")) omp_set_num_threads(static_cast<int>(checked_int(values, "threads", 1, 4096)));
}

std::string read_text(const std::string& path, const std::string& flag) {
  std::error_code ec;
  if (!std::filesystem::exists(path, ec)) throw Error(TN_E_NOT_FOUND, flag + " " + path + " does not exist");
  if (std::filesystem::is_regular_file(path, ec) && std::filesystem::file_size(path, ec) == 0) return {};
  const MappedFile file(path);
  if (file.bytes().size() > (uint64_t{1} << 30)) throw Error(TN_E_ARGUMENT, flag + " " + path + " is larger than 1 GiB; cut it into smaller files");
  const std::string_view text = as_text(file.bytes());
  if (const size_t bad = trainer::find_invalid_utf8(text); bad != std::string_view::npos)
    throw Error(TN_E_FORMAT, flag + " " + path + " is not UTF-8 at byte " + std::to_string(bad) + "; convert it to UTF-8");
  return std::string(text);
}

}  // namespace tenon::cli
