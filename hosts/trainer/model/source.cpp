#include "hosts/trainer/model/source.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <filesystem>
#include <list>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/json.h"
#include "core/files/model_names.h"

namespace tenon::trainer {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kStageBytes = 64 << 20;  // a tensor passes through the device in pieces of at most this

std::string shape_text(const int64_t* shape, size_t n) {
  std::string s = "[";
  for (size_t i = 0; i < n; ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + "]";
}

bool abi_dtype(FileDtype from, tn_dtype& to) {
  switch (from) {
    case FileDtype::kF32: to = kF32; return true;
    case FileDtype::kBf16: to = kBF16; return true;
    case FileDtype::kF16: to = kF16; return true;
    case FileDtype::kU8: to = kU8; return true;
    case FileDtype::kI8: to = {TN_INT, 8, 1}; return true;
    case FileDtype::kI32: to = kI32; return true;
    default: return false;
  }
}

void check_shape(const std::string& path, const std::string& name, const std::vector<int64_t>& shape, const Tensor& to) {
  if (static_cast<int>(shape.size()) == to.ndim() && std::equal(shape.begin(), shape.end(), to.shape())) return;
  throw Error(TN_E_FORMAT, path + ": tensor " + quote_name(name) + " has shape " + shape_text(shape.data(), shape.size()) +
                               " but the configuration asks for " + shape_text(to.shape(), to.ndim()) + "; the two files are not of one model");
}

}  // namespace

std::string stored_key(const std::string& weight, std::string_view suffix) {
  if (!suffix.starts_with("../")) return weight + std::string(suffix);
  return weight.substr(0, weight.rfind('.') + 1) + std::string(suffix.substr(3));
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

// A weight in codes is several tensors: one may carry its name (of integers), the others continue it or stand beside it in the module.
bool ModelSource::is_stored_quantized(const std::string& name) const {
  if (config_.stored_layout.empty() || !safetensors_) return false;
  const auto any = [&](const std::string& prefix) {
    return std::any_of(safetensors_->tensors().begin(), safetensors_->tensors().end(),
                       [&](const TensorEntry& e) { return e.name.starts_with(prefix) && e.name != prefix + "bias"; });
  };
  if (any(name + ".")) return true;
  const TensorEntry* own = safetensors_->find(name);
  if (own && (own->dtype == FileDtype::kI8 || own->dtype == FileDtype::kU8)) return true;
  return !own && name.ends_with(".weight") && any(name.substr(0, name.rfind('.') + 1));
}

std::vector<int32_t> ModelSource::segment_order() const {
  const TensorEntry* e = safetensors_ && config_.stored_layout == kOwnLayout ? safetensors_->find(kSegmentOrderKey) : nullptr;
  if (!e) return {};
  if (e->dtype != FileDtype::kI32) throw Error(TN_E_FORMAT, path_ + ": tensor " + std::string(kSegmentOrderKey) + " is not of the type I32; the model is damaged, quantize it again");
  const ByteSpan bytes = safetensors_->data(*e);
  std::vector<int32_t> order(bytes.size() / 4);
  std::memcpy(order.data(), bytes.data(), order.size() * 4);
  return order;
}

void ModelSource::read_components(Engine& engine, const QuantizedWeight& weight) const {
  const std::string name = weight.target().name;
  for (size_t i = 0; i < weight.components().size(); ++i) {
    const Tensor& to = weight.components()[i];
    const std::string key = name + "." + weight.component_names()[i];
    const TensorEntry* e = safetensors_->find(key);
    if (!e) throw Error(TN_E_NOT_FOUND, path_ + ": tensor " + quote_name(key) + " is missing; the model is incomplete, quantize it again");
    tn_dtype dtype{};
    if (!abi_dtype(e->dtype, dtype) || !(dtype == to.dtype()))
      throw Error(TN_E_FORMAT, path_ + ": tensor " + quote_name(key) + " is stored as " + std::string(dtype_name(e->dtype)) +
                                   ", which is not what the quantizer of its quantization_config plans; the file is damaged");
    std::vector<int64_t> shape = e->shape;  // of all segments, of which the first are wanted
    if (weight.segmented(i) && !shape.empty() && shape[0] >= to.dim(0)) shape[0] = to.dim(0);
    check_shape(path_, key, shape, to);
    engine.upload(safetensors_->data(*e).data(), to);
    engine.synchronize();
    safetensors_->drop(*e);
  }
}

void ModelSource::read_codes(Engine& engine, const QuantizedWeight& weight, const StoredCodec& stored) const {
  if (engine.dry()) return;
  if (config_.stored_layout == kOwnLayout) return read_components(engine, weight);
  // The layout speaks of host memory; tensors of other writers may lie at any address, so they are copied.
  struct Files {
    const SafetensorsReader* reader;
    std::string name;
    struct Loan {
      std::vector<std::byte> bytes;
      std::vector<int64_t> strides;
      std::vector<int64_t> shape;
      tn_tensor tensor;
      const TensorEntry* entry;
    };
    std::list<Loan> loans;
    std::exception_ptr fault;  // of a lookup, which may not be thrown through the codec
    static const tn_tensor* get(void* self, const char* suffix) {
      auto& f = *static_cast<Files*>(self);
      try {
        return f.find(suffix);
      } catch (...) {
        f.fault = std::current_exception();
        return nullptr;
      }
    }
    const tn_tensor* find(const char* suffix) {
      const TensorEntry* e = reader->find(stored_key(name, suffix));
      tn_dtype dtype;
      if (!e || !abi_dtype(e->dtype, dtype)) return nullptr;
      const ByteSpan data = reader->data(*e);
      Loan& l = loans.emplace_back();
      l.bytes.assign(data.begin(), data.end());
      l.shape = e->shape, l.strides.assign(e->shape.size(), 1);
      for (size_t i = l.shape.size(); i-- > 1;) l.strides[i - 1] = l.strides[i] * l.shape[i];
      l.entry = e;
      l.tensor = {l.bytes.data(), {TN_CPU, 0}, static_cast<int32_t>(l.shape.size()), dtype, l.shape.data(), l.strides.data(), 0};
      return &l.tensor;
    }
  } files{safetensors_.get(), weight.target().name, {}, {}};
  std::vector<std::vector<std::byte>> host;
  std::vector<Tensor> tensors;
  std::vector<Tensor::Ref> refs;
  std::vector<tn_tensor*> pointers;
  for (const Tensor& c : weight.components()) {
    host.emplace_back(static_cast<size_t>(c.bytes()));
    tensors.emplace_back(std::shared_ptr<tenon::Block>(), host.back().data(), tn_device_id{TN_CPU, 0}, c.dtype(), c.shape(), c.ndim());
  }
  for (const Tensor& t : tensors) refs.push_back(t.ref());
  for (Tensor::Ref& r : refs) pointers.push_back(&r.t);
  if (!stored.layout) throw Error(TN_E_UNSUPPORTED, path_ + " stores its weights as " + config_.stored_layout + ", which the quantizer given does not read");
  const int32_t status =
      stored.layout->from_external(stored.quantizer.self, config_.stored_layout.c_str(), &weight.target(), &files, Files::get, pointers.data());
  if (files.fault) std::rethrow_exception(files.fault);
  check(status, "reading a stored weight");
  for (size_t i = 0; i < tensors.size(); ++i) engine.upload(host[i].data(), weight.components()[i]);
  engine.synchronize();
  for (const Files::Loan& l : files.loans) safetensors_->drop(*l.entry);
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

const GgufTensor* ModelSource::gguf_tensor(const std::string& name) const {
  const std::optional<std::string> gguf_name = gguf_name_from_hf(name);
  const GgufTensor* t = gguf_name ? gguf_->find_tensor(*gguf_name) : nullptr;
  if (!t) throw Error(TN_E_NOT_FOUND, path_ + ": tensor " + quote_name(gguf_name.value_or(name)) + " is missing; the model is incomplete, download it again");
  return t;
}

const std::byte* ModelSource::gguf_bytes(const GgufTensor& t, const std::string& name, int64_t rows, std::vector<std::byte>& permuted) const {
  const QkRole role = gguf_permutes_qk(gguf_->get_string("general.architecture")) ? qk_role(name) : QkRole::kNone;
  const std::byte* bytes = gguf_->data(t).data();
  if (role == QkRole::kNone) return bytes;
  permuted.resize(t.bytes);
  permute_qk_rows_to_hf(bytes, permuted.data(), rows, static_cast<int64_t>(t.bytes) / rows, role == QkRole::kQuery ? config_.heads : config_.kv_heads);
  return permuted.data();
}

bool ModelSource::holds_blocks(const std::string& name, const QuantizedWeight& weight, const WeightDecoder& decoder) const {
  if (!gguf_ || !decoder.stores) return false;
  const GgufTensor& t = *gguf_tensor(name);
  return decoder.stores(t.type->name, weight.quantizer()) && t.shape == std::vector<int64_t>{weight.m(), weight.n()} && weight.components().size() == 1 &&
         static_cast<uint64_t>(weight.components()[0].bytes()) == t.bytes;
}

void ModelSource::read_blocks(Engine& engine, const std::string& name, const QuantizedWeight& weight) const {
  if (engine.dry()) return;
  const GgufTensor& t = *gguf_tensor(name);
  std::vector<std::byte> permuted;
  engine.upload(gguf_bytes(t, name, weight.m(), permuted), weight.components()[0]);
  engine.synchronize();
  gguf_->drop(t);
}

void ModelSource::read_gguf(Engine& engine, const std::string& name, const Tensor& to, const WeightDecoder& decoder) const {
  const GgufTensor* t = gguf_tensor(name);
  check_shape(path_, name, t->shape, to);
  const int64_t rows = to.ndim() == 2 || qk_role(name) != QkRole::kNone ? to.dim(0) : 1;
  const int64_t width = to.count() / std::max<int64_t>(rows, 1);
  const int64_t row_bytes = static_cast<int64_t>(t->bytes) / std::max<int64_t>(rows, 1);

  std::vector<std::byte> permuted;
  const std::byte* bytes = engine.dry() ? nullptr : gguf_bytes(*t, name, rows, permuted);
  const std::string type(t->type->name);
  const bool plain = type == "F32" || type == "F16" || type == "BF16";
  const tn_dtype dtype = type == "F32" ? kF32 : type == "F16" ? kF16 : kBF16;
  const int64_t step = std::clamp<int64_t>(kStageBytes / std::max<int64_t>(row_bytes, 1), 1, rows);
  for (int64_t r = 0; r < rows; r += step) {
    const int64_t end = std::min(r + step, rows);
    const Tensor part = to.reshaped({rows, width}).rows(r, end);
    const std::byte* from = bytes ? bytes + r * row_bytes : nullptr;
    if (plain) {
      if (dtype == to.dtype()) {
        engine.upload(from, part);
      } else {
        const Tensor stage = engine.empty(Category::kWorkspace, dtype, {end - r, width});
        engine.upload(from, stage);
        engine.axpby(1, stage, 0, part);
      }
    } else {
      const Quantizer q = decoder.ggml(type);
      const Tensor stage = engine.empty(Category::kWorkspace, kU8, {(end - r) * row_bytes});
      engine.upload(from, stage);
      const tn_target target{sizeof(tn_target), TN_SITE_WEIGHT, TN_ROLE_OTHER, 0, -1, 2, to.dtype(), 0, {end - r, width, 0, 0}, name.c_str()};
      tn_estimate e{sizeof(tn_estimate)};
      check(q.api->estimate(q.self, engine.api(), engine.device(), &target, TN_QUANTIZER_DECODE, part.count(), &e), "planning a decoding");
      const Tensor::Ref component = stage.ref();
      tn_tensor* components[1] = {&component.t};
      const Tensor flat = part.reshaped({part.count()});
      engine.with_workspace(e, "decode", [&](const tn_exec* x) {
        return q.api->decode(q.self, x, &target, components, 0, part.count(), flat.ref());
      });
    }
    engine.synchronize();
  }
  if (!engine.dry()) gguf_->drop(*t);
}

}  // namespace tenon::trainer
