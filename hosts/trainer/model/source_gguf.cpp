// Weights of a GGUF file: plain ones converted, others decoded by the quantizer of their type, or its blocks taken over as they are.
#include <algorithm>

#include "core/error.h"
#include "core/files/model_names.h"
#include "hosts/trainer/model/source.h"
#include "hosts/trainer/model/source_parts.h"

namespace tenon::trainer {

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
