#include "hosts/trainer/run/quantized_export.h"

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>

#include "core/error.h"
#include "core/files/atomic_folder.h"
#include "core/files/json.h"
#include "core/files/safetensors_writer.h"
#include "hosts/trainer/engine/sinks.h"
#include "hosts/trainer/run/export.h"
#include "hosts/trainer/run/tensor_io.h"
#include "hosts/trainer/text/tokenizer/tokenizer_files.h"

namespace tenon::trainer {
namespace {

namespace fs = std::filesystem;

std::vector<std::byte> to_host(Engine& engine, const Tensor& t) {
  std::vector<std::byte> bytes(static_cast<size_t>(t.bytes()));
  engine.download(t, bytes.data());
  return bytes;
}

// External tensors of one weight, copied as the codec hands them out.
struct External {
  tn_dtype dtype;
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;
};

int32_t put(void* context, const char* suffix, const tn_tensor* t) {
  return answer([&] {
    External e{t->dtype, {t->shape, t->shape + t->ndim}, {}};
    int64_t n = element_bytes(t->dtype);
    for (int64_t d : e.shape) n *= d;
    const auto* from = static_cast<const std::byte*>(t->data) + t->byte_offset;
    e.bytes.assign(from, from + n);
    (*static_cast<std::map<std::string, External>*>(context))[suffix] = std::move(e);
  });
}

// Whether the model's loss may train components of the coded weights.
bool trains_on(const Quantizer& quantizer, const ExportWeights& weights) {
  if (!quantizer.trainable || !quantizer.trainable->component_gradient) return false;
  for (const ExportWeight& w : weights) {
    if (!w.linear) continue;
    const tn_target target{sizeof(tn_target), TN_SITE_WEIGHT, w.role, w.uid, w.block, 2, kF32, 0, {w.rows(), w.width(), 0, 0}, w.name.c_str()};
    for (const PlannedComponent& c : plan_components(quantizer, target))
      if (c.trainable) return true;
    return false;
  }
  return false;
}

}  // namespace

QuantizedSize fill_quantized_folder(const std::string& folder, Engine& engine, const ExportWeights& weights, const ModelSource& source,
                                    const Runtime& runtime, const Quantizer& quantizer, tn_dtype dtype, FolderForm form,
                                    const std::vector<int32_t>& segment_order) {
  const tn_layout* layout = form == FolderForm::kLayout ? runtime.quantizer_layout() : nullptr;
  if (layout && (!layout->names || !layout->names[0] || !TN_HAS(layout, tn_layout, write_config) || !layout->write_config)) layout = nullptr;
  std::string quantization;
  QuantizedSize size;
  const bool as_stored = runtime.takes_stored_codes();
  if (layout && as_stored && source.config().stored_layout == layout->names[0]) {
    quantization = source.config().stored_config;  // what it says beyond the codec, such as modules left out, stays
  } else if (layout) {
    const tn_sink sink = append_to(quantization);
    check(layout->write_config(quantizer.self, layout->names[0], &sink), "writing the external layout");
  } else {
    quantization = Json{{"quant_method", kOwnLayout}, {"quantizer", runtime.canonical_spec(TN_KIND_QUANTIZER)}}.dump();
  }
  std::map<std::string, External> tensors;  // by full key
  std::vector<const ExportWeight*> plain;
  for (const ExportWeight& w : weights) {
    if (!w.linear || (w.plain && as_stored)) {
      plain.push_back(&w);
      continue;
    }
    // Codes of this very quantizer are taken as they are: some are made with text in view.
    std::optional<QuantizedWeight> made;
    const QuantizedWeight* coded = w.coded;
    if (!coded || coded->quantizer().self != quantizer.self) {
      coded = &made.emplace(engine, quantizer, w.name, w.uid, w.role, w.block, w.rows(), w.width());
      made->encode(engine, whole(engine, w));
    }
    std::vector<std::vector<std::byte>> bytes;
    std::vector<Tensor> host;
    std::vector<Tensor::Ref> refs;
    std::vector<tn_tensor*> pointers;
    for (const Tensor& c : coded->components()) {
      bytes.push_back(to_host(engine, c));
      host.emplace_back(std::shared_ptr<tenon::Block>(), bytes.back().data(), tn_device_id{TN_CPU, 0}, c.dtype(), c.shape(), c.ndim());
      size.quantized_bytes += bytes.back().size();
    }
    for (const Tensor& t : host) refs.push_back(t.ref());
    for (Tensor::Ref& r : refs) pointers.push_back(&r.t);
    std::map<std::string, External> parts;
    if (layout)
      check(layout->to_external(quantizer.self, layout->names[0], &coded->target(), pointers.data(), &parts, put), "writing the external layout");
    else
      for (size_t i = 0; i < pointers.size(); ++i) put(&parts, ("." + coded->component_names()[i]).c_str(), pointers[i]);
    for (auto& [suffix, e] : parts) tensors[stored_key(w.name, suffix)] = std::move(e);
    size.quantized_weights += static_cast<uint64_t>(w.rows() * w.width());
  }
  if (!layout && !segment_order.empty())
    tensors[kSegmentOrderKey] = {kI32, {static_cast<int64_t>(segment_order.size())}, {std::as_bytes(std::span(segment_order)).begin(), std::as_bytes(std::span(segment_order)).end()}};
  std::vector<TensorSpec> specs;
  for (const auto& [key, e] : tensors) specs.push_back({key, file_dtype(e.dtype), e.shape});
  for (const ExportWeight* w : plain) specs.push_back({w->name, file_dtype(dtype), w->shape});
  ShardedSafetensorsWriter writer(folder, specs, {{"format", "pt"}});
  for (const auto& [key, e] : tensors) writer.write(key, e.bytes);
  for (const ExportWeight* w : plain) write_weight_as(engine, *w, dtype, [&](ByteSpan b) { writer.write(w->name, b); });
  writer.commit();
  Json config = config_to_json(source.config(), dtype_name(dtype));
  config["quantization_config"] = Json::parse(quantization);
  if (untied(weights, source)) config["tie_word_embeddings"] = false;
  write_json_file((fs::path(folder) / "config.json").string(), config);
  copy_tokenizer_files(source.path(), source.gguf(), folder);
  for (const auto& entry : fs::directory_iterator(folder)) size.total_bytes += entry.file_size();
  return size;
}

QuantizedSize write_quantized(const std::string& output, Engine& engine, const ExportWeights& weights, const ModelSource& source, const Runtime& runtime,
                              const Techniques& techniques, tn_dtype dtype, const std::vector<int32_t>& segment_order) {
  if (!output.ends_with(".gguf")) {
    AtomicFolder folder(output);
    const FolderForm form = trains_on(*techniques.quantizer, weights) ? FolderForm::kComponents : FolderForm::kLayout;
    const QuantizedSize size = fill_quantized_folder(folder.path(), engine, weights, source, runtime, *techniques.quantizer, dtype, form, segment_order);
    folder.commit();
    return size;
  }
  const GgmlType* type = find_ggml_type(runtime.quantizer_value("type"));
  if (!type) throw Error(TN_E_UNSUPPORTED, "this quantizer has no GGUF layout; use gguf-blocks:type=Q4_K or another of its types");
  return write_gguf(output, engine, weights, source, techniques.decoder, *type, dtype);
}

}  // namespace tenon::trainer
