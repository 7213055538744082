#include "hosts/trainer/run/quantized_export.h"

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/files/atomic_folder.h"
#include "core/files/gguf_writer.h"
#include "core/files/json.h"
#include "core/files/model_names.h"
#include "core/files/safetensors_writer.h"
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
  External e{t->dtype, {t->shape, t->shape + t->ndim}, {}};
  int64_t n = element_bytes(t->dtype);
  for (int64_t d : e.shape) n *= d;
  const auto* from = static_cast<const std::byte*>(t->data) + t->byte_offset;
  e.bytes.assign(from, from + n);
  (*static_cast<std::map<std::string, External>*>(context))[suffix] = std::move(e);
  return TN_OK;
}

}  // namespace

QuantizedSize write_quantized_gguf(const std::string& path, Session& session, const ModelSource& source, const Runtime& runtime) {
  const GgufFile* from = source.gguf();
  if (!from)
    throw Error(TN_E_UNSUPPORTED, "--output " + path + " is GGUF but the model is not; GGUF needs the tokenizer's metadata, so start from a .gguf model or write a folder");
  const std::string type_name = runtime.quantizer_value("type");
  const GgmlType* type = find_ggml_type(type_name);
  if (!type) throw Error(TN_E_UNSUPPORTED, "this quantizer has no GGUF layout; use gguf-blocks:type=Q4_K or another of its types");
  std::map<std::string, const Linear*> quantized;
  for (const Linear* l : session.model().linears())
    if (l->quantized) quantized[*gguf_name_from_hf(l->path + ".weight")] = l;

  GgufMetadata metadata;
  for (const GgufEntry& e : from->metadata())
    if (e.key != "general.file_type") metadata.copy(e);
  std::vector<GgufTensorSpec> specs;
  for (const GgufTensor& t : from->tensors())
    specs.push_back({std::string(t.name), quantized.contains(std::string(t.name)) ? type : t.type, t.shape});
  GgufWriter writer(path, metadata, specs);
  QuantizedSize size;
  const bool permutes = gguf_permutes_qk(from->get_string("general.architecture"));
  for (const GgufTensor& t : from->tensors()) {
    const auto it = quantized.find(std::string(t.name));
    if (it == quantized.end()) {
      writer.write(t.name, from->data(t));
      from->drop(t);
      continue;
    }
    const QuantizedWeight& w = *it->second->quantized;
    std::vector<std::byte> bytes = to_host(session.engine(), w.components().at(0));
    if (const QkRole role = qk_role(it->second->path); permutes && role != QkRole::kNone) {
      std::vector<std::byte> permuted(bytes.size());
      const int64_t heads = role == QkRole::kQuery ? source.config().heads : source.config().kv_heads;
      permute_qk_rows_to_gguf(bytes.data(), permuted.data(), w.m(), bytes.size() / w.m(), heads);
      bytes.swap(permuted);
    }
    writer.write(t.name, bytes);
    size.quantized_bytes += bytes.size(), size.quantized_weights += static_cast<uint64_t>(w.m() * w.n());
  }
  writer.commit();
  size.total_bytes = fs::file_size(path);
  return size;
}

QuantizedSize write_quantized_folder(const std::string& target, Session& session, const ModelSource& source, const Runtime& runtime) {
  const tn_layout* layout = runtime.quantizer_layout();
  if (!layout || !layout->names || !layout->names[0])
    throw Error(TN_E_UNSUPPORTED, "this quantizer has no external layout for a folder; name an --output that ends in .gguf");
  AtomicFolder folder(target);
  Engine& engine = session.engine();
  std::map<std::string, External> tensors;  // by full key
  QuantizedSize size;
  std::set<const Parameter*> done;
  for (const Linear* l : session.model().linears()) {
    if (!l->quantized) continue;
    std::vector<std::vector<std::byte>> bytes;
    std::vector<Tensor> host;
    std::vector<Tensor::Ref> refs;
    std::vector<tn_tensor*> pointers;
    for (const Tensor& c : l->quantized->components()) {
      bytes.push_back(to_host(engine, c));
      host.emplace_back(std::shared_ptr<tenon::Block>(), bytes.back().data(), tn_device_id{TN_CPU, 0}, c.dtype(), c.shape(), c.ndim());
      size.quantized_bytes += bytes.back().size();
    }
    for (const Tensor& t : host) refs.push_back(t.ref());
    for (Tensor::Ref& r : refs) pointers.push_back(&r.t);
    std::map<std::string, External> parts;
    const Quantizer q = l->quantized->quantizer();
    check(layout->to_external(q.self, layout->names[0], &l->quantized->target(), pointers.data(), &parts, put), "writing the external layout");
    for (auto& [suffix, e] : parts) tensors[l->path + ".weight" + suffix] = std::move(e);
    size.quantized_weights += static_cast<uint64_t>(l->m * l->n);
  }
  std::vector<TensorSpec> specs;
  for (const auto& [key, e] : tensors) specs.push_back({key, file_dtype(e.dtype), e.shape});
  const tn_dtype dtype = session.options().storage;
  for (const Parameter& p : session.model().parameters()) specs.push_back({p.name, file_dtype(dtype), file_shape(p.value)});
  ShardedSafetensorsWriter writer(folder.path(), specs, {{"format", "pt"}});
  for (const auto& [key, e] : tensors) writer.write(key, e.bytes);
  for (const Parameter& p : session.model().parameters()) write_tensor_as(engine, p.value, dtype, [&](ByteSpan b) { writer.write(p.name, b); });
  writer.commit();
  Json config = config_to_json(source.config(), dtype == kF32 ? "float32" : "bfloat16");
  config["quantization_config"] = {{"quant_method", "bitsandbytes"},
                                   {"load_in_4bit", true},
                                   {"bnb_4bit_quant_type", runtime.quantizer_value("quant_type")},
                                   {"bnb_4bit_use_double_quant", runtime.quantizer_value("double_quant") == "true"},
                                   {"bnb_4bit_compute_dtype", dtype == kF32 ? "float32" : "bfloat16"}};
  write_json_file((fs::path(folder.path()) / "config.json").string(), config);
  copy_tokenizer_files(source.path(), source.gguf(), folder.path());
  for (const auto& entry : fs::directory_iterator(folder.path())) size.total_bytes += entry.file_size();
  folder.commit();
  return size;
}

}  // namespace tenon::trainer
