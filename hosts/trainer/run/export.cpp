#include "hosts/trainer/run/export.h"

#include <algorithm>
#include <filesystem>
#include <list>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/files/atomic_file.h"
#include "core/files/json.h"
#include "core/files/safetensors_writer.h"
#include "hosts/trainer/run/tensor_io.h"
#include "hosts/trainer/text/tokenizer/tokenizer_files.h"

namespace tenon::trainer {
namespace {

namespace fs = std::filesystem;
constexpr int64_t kMergeRows = 1024;  // rows that are merged in f32 at a time

std::string at(const std::string& folder, const char* name) { return (fs::path(folder) / name).string(); }

// Rows of a linear's weight in f32 with every adapter's delta added.
Tensor merged_rows(Engine& engine, const Linear& linear, int64_t begin, int64_t end, bool merge) {
  Tensor w = engine.empty(Category::kWorkspace, kF32, {end - begin, linear.n});
  linear.read_rows(engine, begin, end, w);
  if (!merge) return w;
  for (const Adapter* a : linear.adapters) {
    if (!a->api->merge_rows) throw Error(TN_E_UNSUPPORTED, "adapter " + a->name + " cannot be merged into weights; keep it as an adapter");
    std::list<Tensor::Ref> refs;
    std::list<tn_param_view> views;
    std::vector<const tn_param_view*> pointers;
    for (uint32_t id : a->site_params.at(linear.site)) {
      tn_tensor* value = &refs.emplace_back(a->parameters[id]->value.ref()).t;
      pointers.push_back(&views.emplace_back(tn_param_view{sizeof(tn_param_view), id, value, nullptr}));
    }
    const tn_dtype f32 = kF32;
    tn_estimate e{sizeof(tn_estimate)};
    check(a->api->estimate(a->self, engine.api(), engine.device(), linear.site, end - begin, &f32, 0, &e), "planning a merge");
    engine.with_workspace(e.workspace_bytes, "merge", [&](const tn_exec* x) {
      return a->api->merge_rows(a->self, x, linear.site, pointers.data(), pointers.size(), begin, end, w.ref());
    });
  }
  return w;
}

}  // namespace

void write_model(const std::string& folder, Session& session, const ModelSource& source, tn_dtype dtype, bool merge) {
  Engine& engine = session.engine();
  Model& model = session.model();
  std::vector<TensorSpec> specs;
  std::set<const Parameter*> of_linears;
  const std::vector<Linear*> linears = model.linears();
  for (const Linear* l : linears) {
    if (l->tied) {
      if (merge && !l->adapters.empty())
        throw Error(TN_E_UNSUPPORTED, "the head is tied to the embedding, so merging an adapter of lm_head would change both; keep it as an adapter");
      continue;
    }
    specs.push_back({l->path + ".weight", file_dtype(dtype), {l->m, l->n}});
    of_linears.insert(l->weight);
  }
  for (const Parameter& p : model.parameters())
    if (!of_linears.contains(&p)) specs.push_back({p.name, file_dtype(dtype), file_shape(p.value)});
  ShardedSafetensorsWriter writer(folder, specs, {{"format", "pt"}});
  for (const Linear* l : linears) {
    if (l->tied) continue;
    const std::string key = l->path + ".weight";
    const auto put = [&](ByteSpan bytes) { writer.write(key, bytes); };
    if (l->weight && (!merge || l->adapters.empty())) {
      write_tensor_as(engine, l->weight->value, dtype, put);
      continue;
    }
    for (int64_t r = 0; r < l->m; r += kMergeRows)
      write_tensor_as(engine, merged_rows(engine, *l, r, std::min(r + kMergeRows, l->m), merge), dtype, put);
  }
  for (const Parameter& p : model.parameters())
    if (!of_linears.contains(&p)) write_tensor_as(engine, p.value, dtype, [&](ByteSpan bytes) { writer.write(p.name, bytes); });
  writer.commit();

  const char* name = dtype == kF32 ? "float32" : dtype == kBF16 ? "bfloat16" : "float16";
  if (source.is_preset() || source.is_gguf()) {
    write_json_file(at(folder, "config.json"), config_to_json(source.config(), name));
  } else {
    Json config = read_json_file(at(source.path(), "config.json"));
    config[config.contains("dtype") ? "dtype" : "torch_dtype"] = name;
    write_json_file(at(folder, "config.json"), config);
  }
  copy_tokenizer_files(source.path(), source.gguf(), folder);
}

void write_adapter(const std::string& folder, Session& session, const Adapter& adapter, const std::string& base) {
  std::vector<TensorSpec> specs;
  for (const auto& p : adapter.parameters) specs.push_back({p->name, FileDtype::kF32, file_shape(p->value)});
  SafetensorsWriter writer(at(folder, "adapter_model.safetensors"), specs, {{"format", "pt"}});
  for (const auto& p : adapter.parameters)
    write_tensor(session.engine(), p->value, [&](ByteSpan bytes) { writer.write(p->name, bytes); });
  writer.commit();

  std::string text;
  const tn_sink sink{sizeof(tn_sink), 0, &text, [](void* self, const void* data, uint64_t n) -> int32_t {
                       static_cast<std::string*>(self)->append(static_cast<const char*>(data), n);
                       return TN_OK;
                     }};
  check(adapter.api->write_config(adapter.self, &sink), "writing the adapter's configuration");
  // Patterns match in file order, so the order of keys is kept.
  nlohmann::ordered_json config = nlohmann::ordered_json::parse(text);
  config["base_model_name_or_path"] = base;
  write_file_atomically(at(folder, "adapter_config.json"), config.dump(2) + "\n");
}

void read_adapter(Session& session, Adapter& adapter, const std::string& folder) {
  const std::string file = at(folder, "adapter_model.safetensors");
  const SafetensorsReader reader = SafetensorsReader::open(file);
  std::set<std::string> wanted;
  for (const auto& p : adapter.parameters) {
    wanted.insert(p->name);
    const TensorEntry* entry = reader.find(p->name);
    if (!entry) throw Error(TN_E_NOT_FOUND, file + ": tensor " + quote_name(p->name) + " is missing; the adapter is incomplete or belongs to another model");
    if (entry->shape != file_shape(p->value))
      throw Error(TN_E_FORMAT, file + ": tensor " + quote_name(p->name) + " has another shape than this model asks for; the adapter belongs to another model");
    if (session.engine().dry()) continue;
    if (entry->dtype == FileDtype::kF32) {
      read_tensor(session.engine(), reader, p->name, p->value);
    } else if (entry->dtype == FileDtype::kBf16 || entry->dtype == FileDtype::kF16) {
      const Tensor stage = session.engine().empty(Category::kWorkspace, entry->dtype == FileDtype::kBf16 ? kBF16 : kF16, p->value.shape(), p->value.ndim());
      read_tensor(session.engine(), reader, p->name, stage);
      session.engine().axpby(1, stage, 0, p->value);
    } else {
      throw Error(TN_E_UNSUPPORTED, file + ": tensor " + quote_name(p->name) + " must be F32, BF16 or F16");
    }
  }
  for (const TensorEntry& entry : reader.tensors())
    if (!wanted.contains(entry.name))
      throw Error(TN_E_FORMAT, file + ": tensor " + quote_name(entry.name) + " has no place in this model; the adapter belongs to another model or was made by a newer tool");
}

}  // namespace tenon::trainer
