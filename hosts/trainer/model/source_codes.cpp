// Weights that a folder stores in a quantizer's codes: as Tenon writes them, component by component, or in the layout of other tools.
#include <algorithm>
#include <cstring>
#include <exception>
#include <list>

#include "core/error.h"
#include "hosts/trainer/model/source.h"
#include "hosts/trainer/model/source_parts.h"

namespace tenon::trainer {
namespace {

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

}  // namespace

std::string stored_key(const std::string& weight, std::string_view suffix) {
  if (!suffix.starts_with("../")) return weight + std::string(suffix);
  return weight.substr(0, weight.rfind('.') + 1) + std::string(suffix.substr(3));
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

}  // namespace tenon::trainer
