#include "hosts/trainer/run/combine.h"

#include <filesystem>
#include <list>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>

#include "core/error.h"
#include "core/files/atomic_file.h"
#include "core/files/atomic_folder.h"
#include "core/files/json.h"
#include "core/files/safetensors.h"
#include "core/files/safetensors_writer.h"
#include "core/plugins/answer.h"
#include "core/plugins/host.h"
#include "hosts/trainer/engine/sinks.h"
#include "hosts/trainer/run/runtime.h"
#include "tenon/combine.h"

namespace tenon::trainer {
namespace {

namespace fs = std::filesystem;

std::string at(const std::string& folder, const char* name) { return (fs::path(folder) / name).string(); }

// An adapter's folder in memory, as the extension wants it.
class Part {
 public:
  Part(const CombinePart& part, std::string& type) {
    const std::string config = at(part.folder, "adapter_config.json"), file = at(part.folder, "adapter_model.safetensors");
    std::error_code ec;
    if (!fs::exists(config, ec)) throw Error(TN_E_NOT_FOUND, "--adapter-from " + part.folder + " holds no adapter_config.json; give the folder of a PEFT adapter");
    JsonLimits limits;
    limits.max_bytes = 4 << 20;
    const Json json = read_json_file(config, limits);
    const std::string own = get_string(json, "peft_type", config);
    if (!type.empty() && type != own)
      throw Error(TN_E_UNSUPPORTED, config + ": peft_type is \"" + own.substr(0, 60) + "\" but that of the first adapter is \"" + type.substr(0, 60) + "\"; only adapters of one kind can be combined");
    type = own;
    base_ = find_string(json, "base_model_name_or_path", config).value_or("");
    config_ = json.dump();
    const SafetensorsReader reader = SafetensorsReader::open(file);
    for (const TensorEntry& e : reader.tensors()) read(reader, e, file);
    for (Held& h : tensors_) keys_.push_back(h.key.c_str()), pointers_.push_back(&h.tensor);
    source_ = {sizeof(tn_combine_source), 0, part.weight, config_.c_str(), keys_.size(), keys_.data(), pointers_.data()};
  }
  Part(const Part&) = delete;
  const tn_combine_source* source() const { return &source_; }
  const std::string& base() const { return base_; }

 private:
  struct Held {
    std::string key;
    std::vector<std::byte> bytes;
    std::vector<int64_t> shape, strides;
    tn_tensor tensor;
  };

  void read(const SafetensorsReader& reader, const TensorEntry& e, const std::string& file) {
    Held& h = tensors_.emplace_back();
    h.key = e.name, h.shape = e.shape, h.strides.assign(e.shape.size(), 1);
    for (size_t i = h.shape.size(); i-- > 1;) h.strides[i - 1] = h.strides[i] * h.shape[i];
    const ByteSpan bytes = reader.data(e);
    h.bytes.assign(bytes.begin(), bytes.end());  // files of other writers may have them at any address
    h.tensor = {h.bytes.data(), {TN_CPU, 0}, static_cast<int32_t>(h.shape.size()), float_dtype(e, file), h.shape.data(), h.strides.data(), 0};
  }

  static tn_dtype float_dtype(const TensorEntry& e, const std::string& file) {
    if (e.dtype == FileDtype::kF32) return kF32;
    if (e.dtype == FileDtype::kBf16) return kBF16;
    if (e.dtype == FileDtype::kF16) return kF16;
    throw Error(TN_E_UNSUPPORTED, file + ": tensor " + quote_name(e.name) + " must be F32, BF16 or F16");
  }

  std::string config_, base_;
  std::list<Held> tensors_;
  std::vector<const char*> keys_;
  std::vector<const tn_tensor*> pointers_;
  tn_combine_source source_{};
};

struct Result {
  struct Tensor {
    std::string key;
    std::vector<int64_t> shape;
    std::vector<float> values;
  };
  std::vector<Tensor> tensors;

  static int32_t put(void* self, const char* key, const tn_tensor* t) {
    return answer([&] {
      int64_t n = 1;
      bool plain = t->dtype == kF32;
      for (int32_t i = t->ndim; i-- > 0; n *= t->shape[i]) plain = plain && (t->shape[i] <= 1 || t->strides[i] == n);
      if (!plain) throw Error(TN_E_ARGUMENT, "tensor " + quote_name(key) + " was handed over in another form than f32 without gaps");
      const auto* from = reinterpret_cast<const float*>(static_cast<const char*>(t->data) + t->byte_offset);
      static_cast<Result*>(self)->tensors.push_back({key, {t->shape, t->shape + t->ndim}, {from, from + n}});
    });
  }
};

const tn_combine& combiner(const Catalog& catalog, const std::string& type, std::optional<LoadedPlugin>& plugin) {
  PluginFilter filter;
  filter.kind = "adapter", filter.layout = "peft:" + type;
  for (const PluginRow& row : catalog.list(filter)) {
    if (row.backends.empty()) continue;
    plugin.emplace(catalog.load(row.id, row.backends[0]));
    if (const auto* c = plugin->extension<tn_combine>(TN_EXT_COMBINE)) return *c;
  }
  throw Error(TN_E_UNSUPPORTED, "no installed plugin combines adapters of the type \"" + type.substr(0, 60) + "\"; merge them into the model one after the other");
}

}  // namespace

void combine_adapters(const Catalog& catalog, const std::vector<CombinePart>& parts, const std::string& method, int64_t rank, const std::string& output) {
  std::string type;
  std::list<Part> held;
  std::vector<const tn_combine_source*> sources;
  for (const CombinePart& p : parts) sources.push_back(held.emplace_back(p, type).source());
  std::optional<LoadedPlugin> plugin;  // stays loaded while it works
  const tn_combine& c = combiner(catalog, type, plugin);
  Result result;
  std::string text;
  const tn_sink config = append_to(text);
  check(c.combine(host(), method.c_str(), rank, sources.data(), sources.size(), &result, Result::put, &config), "combining the adapters");

  AtomicFolder folder(output);
  std::vector<TensorSpec> specs;
  for (const auto& t : result.tensors) specs.push_back({t.key, FileDtype::kF32, t.shape});
  SafetensorsWriter writer(at(folder.path(), "adapter_model.safetensors"), specs, {{"format", "pt"}});
  for (const auto& t : result.tensors) writer.write(t.key, std::as_bytes(std::span(t.values)));
  writer.commit();
  // Patterns match in file order, so the order of keys is kept.
  nlohmann::ordered_json json = nlohmann::ordered_json::parse(text);
  json["base_model_name_or_path"] = held.front().base();
  write_file_atomically(at(folder.path(), "adapter_config.json"), json.dump(2) + "\n");
  folder.commit();
}

}  // namespace tenon::trainer
