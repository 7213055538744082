// Opening a model and filling its weights: from safetensors here, from GGUF in source_gguf.cpp, from a quantizer's codes in source_codes.cpp.
#include "hosts/trainer/model/source.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/json.h"
#include "hosts/trainer/model/source_parts.h"

namespace tenon::trainer {
namespace {

namespace fs = std::filesystem;

std::string shape_text(const int64_t* shape, size_t n) {
  std::string s = "[";
  for (size_t i = 0; i < n; ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + "]";
}

}  // namespace

void check_shape(const std::string& path, const std::string& name, const std::vector<int64_t>& shape, const Tensor& to) {
  if (static_cast<int>(shape.size()) == to.ndim() && std::equal(shape.begin(), shape.end(), to.shape())) return;
  throw Error(TN_E_FORMAT, path + ": tensor " + quote_name(name) + " has shape " + shape_text(shape.data(), shape.size()) +
                               " but the configuration asks for " + shape_text(to.shape(), to.ndim()) + "; the two files are not of one model");
}

ModelSource ModelSource::open(const std::string& model, int64_t preset_vocab) {
  ModelSource s;
  s.path_ = model;
  if (model.starts_with("preset:")) {
    s.config_ = preset_config(std::string_view(model).substr(7), preset_vocab);
    return s;
  }
  std::error_code ec;
  if (!fs::exists(model, ec))
    throw Error(TN_E_NOT_FOUND, "--model " + model + " does not exist; give a Hugging Face folder, a .gguf file or preset:NAME");
  if (fs::is_directory(model, ec)) {
    const std::string config = (fs::path(model) / "config.json").string();
    if (!fs::exists(config, ec)) throw Error(TN_E_NOT_FOUND, model + " has no config.json; a model folder holds config.json, tokenizer.json and *.safetensors");
    JsonLimits limits;
    limits.max_bytes = 16 << 20;
    s.config_ = parse_config(read_json_file(config, limits), config);
    s.safetensors_ = std::make_shared<SafetensorsReader>(SafetensorsReader::open(model));
  } else {
    s.gguf_ = std::make_shared<GgufFile>(GgufFile::open(model));
    s.config_ = config_from_gguf(*s.gguf_, model);
  }
  return s;
}

void ModelSource::load(Engine& engine, Model& model, const WeightDecoder& decoder, uint64_t seed, bool code) const {
  for (Parameter& p : model.parameters())
    if (p.value && !p.converted) load_one(engine, p.name, p.uid, p.role, p.value, decoder, seed);
  for (Linear* l : model.coded()) {
    if (decoder.stored.is_mix && is_stored_quantized(l->path + ".weight"))
      read_codes(engine, *l->quantized, decoder.stored);
    else if (holds_blocks(l->path + ".weight", *l->quantized, decoder))
      read_blocks(engine, l->path + ".weight", *l->quantized);
    else if (code || l->block < 0)  // the embedding and the head wait for no text
      l->quantized->encode(engine, dense_weight(engine, *l, decoder, seed));
  }
  engine.synchronize();
}

Tensor ModelSource::dense_weight(Engine& engine, const Linear& l, const WeightDecoder& decoder, uint64_t seed) const {
  const Tensor dense = engine.empty(Category::kWorkspace, kF32, {l.m, l.n});
  load_one(engine, l.path + ".weight", l.uid, l.role, dense, decoder, seed);
  return dense;
}

void ModelSource::load_one(Engine& engine, const std::string& name, uint32_t uid, uint32_t role, const Tensor& to, const WeightDecoder& decoder,
                           uint64_t seed) const {
  if (is_preset())
    initialize(engine, name, uid, role, to, seed);
  else
    read(engine, name, to, decoder);
}

void ModelSource::initialize(Engine& engine, const std::string&, uint32_t uid, uint32_t role, const Tensor& to, uint64_t seed) const {
  if (role == TN_ROLE_NORM) return engine.fill_constant(to, 1);
  if (role == TN_ROLE_BIAS) return engine.zero(to);
  engine.fill_normal(to, config_.initializer_range, {seed, uid, 0x494E4954});
}

void ModelSource::read(Engine& engine, const std::string& name, const Tensor& to, const WeightDecoder& decoder) const {
  if (is_stored_quantized(name)) {
    if (!decoder.stored.quantizer.api)
      throw Error(TN_E_UNSUPPORTED, path_ + " stores its weights as " + config_.stored_layout + ", which this command does not read; start from the plain model");
    const QuantizedWeight weight(engine, decoder.stored.quantizer, name, 0, TN_ROLE_OTHER, -1, to.dim(0), to.dim(1));
    read_codes(engine, weight, decoder.stored);
    if (!engine.dry()) weight.decode_rows(engine, 0, to.dim(0), to);
  } else if (safetensors_)
    read_safetensors(engine, name, to);
  else
    read_gguf(engine, name, to, decoder);
}

void ModelSource::read_safetensors(Engine& engine, const std::string& name, const Tensor& to) const {
  const TensorEntry* entry = safetensors_->find(name);
  if (!entry && name.starts_with("model.")) entry = safetensors_->find(name.substr(6));  // saved from the bare decoder
  if (!entry) throw Error(TN_E_NOT_FOUND, path_ + ": tensor " + quote_name(name) + " is missing; the model is incomplete, download it again");
  check_shape(path_, name, entry->shape, to);
  tn_dtype dtype;
  switch (entry->dtype) {
    case FileDtype::kF32: dtype = kF32; break;
    case FileDtype::kBf16: dtype = kBF16; break;
    case FileDtype::kF16: dtype = kF16; break;
    default:
      throw Error(TN_E_UNSUPPORTED, path_ + ": tensor " + quote_name(name) + " is stored as " + std::string(dtype_name(entry->dtype)) +
                                        "; tenon reads F32, BF16 and F16 weights");
  }
  const int64_t rows = to.dim(0), row_bytes = to.count() / std::max<int64_t>(rows, 1) * element_bytes(dtype);
  const int64_t step = std::clamp<int64_t>(kStageBytes / std::max<int64_t>(row_bytes, 1), 1, std::max<int64_t>(rows, 1));
  for (int64_t r = 0; r < rows; r += step) {
    const int64_t end = std::min(r + step, rows);
    const Tensor part = to.rows(r, end);
    const std::byte* bytes = engine.dry() ? nullptr : safetensors_->data(*entry).data() + r * row_bytes;
    if (dtype == to.dtype()) {
      engine.upload(bytes, part);
    } else {
      const Tensor stage = engine.empty(Category::kWorkspace, dtype, part.shape(), part.ndim());
      engine.upload(bytes, stage);
      engine.axpby(1, stage, 0, part);
    }
    engine.synchronize();
  }
  if (!engine.dry()) safetensors_->drop(*entry);
}

}  // namespace tenon::trainer
