#include "hosts/trainer/run/export.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <list>
#include <nlohmann/json.hpp>
#include <set>
#include <span>

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
  if (linear.owner)
    engine.zero(w);  // the adapter adds the whole weight
  else
    linear.read_rows(engine, begin, end, w);
  if (!merge && !linear.owner) return w;
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

// What an adapter's file holds: its own tensors, and those of the model's that it trains.
std::vector<const Parameter*> held_by(Session& session, const Adapter& adapter) {
  std::vector<const Parameter*> held;
  for (const auto& p : adapter.parameters)
    if (p->saved) held.push_back(p.get());
  for (const Parameter& p : session.model().parameters())
    if (p.value && std::find(adapter.trained_roles.begin(), adapter.trained_roles.end(), p.role) != adapter.trained_roles.end()) held.push_back(&p);
  return held;
}

std::string key_of(const Parameter& p) { return p.role == TN_ROLE_ADAPTER ? p.name : "base_model.model." + p.name; }

// Fills a tensor from an entry of its shape, converting between float types, and from 64-bit indices.
void read_held(Engine& engine, const SafetensorsReader& reader, const TensorEntry& entry, const Tensor& to) {
  const auto refuse = [&](const char* wanted) {
    throw Error(TN_E_UNSUPPORTED, reader.path() + ": tensor " + quote_name(entry.name) + " must be " + wanted);
  };
  if (to.dtype() == kI32 && entry.dtype == FileDtype::kI64) {
    const ByteSpan bytes = reader.data(entry);
    std::vector<int64_t> wide(to.count());
    std::memcpy(wide.data(), bytes.data(), wide.size() * 8);
    std::vector<int32_t> narrow;
    for (const int64_t v : wide) {
      if (v < 0 || v > INT32_MAX) refuse("indices below 2^31");
      narrow.push_back(static_cast<int32_t>(v));
    }
    engine.upload(narrow.data(), to);
    return engine.synchronize();
  }
  if (entry.dtype == file_dtype(to.dtype())) return read_tensor(engine, reader, entry.name, to);
  if (to.dtype().code == TN_INT) refuse("of integers");
  if (entry.dtype != FileDtype::kF32 && entry.dtype != FileDtype::kBf16 && entry.dtype != FileDtype::kF16) refuse("F32, BF16 or F16");
  const tn_dtype stored = entry.dtype == FileDtype::kF32 ? kF32 : entry.dtype == FileDtype::kBf16 ? kBF16 : kF16;
  const Tensor stage = engine.empty(Category::kWorkspace, stored, to.shape(), to.ndim());
  read_tensor(engine, reader, entry.name, stage);
  engine.axpby(1, stage, 0, to);
}

}  // namespace

void write_model(const std::string& folder, Session& session, const ModelSource& source, tn_dtype dtype, bool merge) {
  Engine& engine = session.engine();
  Model& model = session.model();
  std::vector<TensorSpec> specs;
  std::set<const Parameter*> of_linears;
  const std::vector<Linear*> linears = model.linears();
  for (const Linear* l : model.sites())
    if (merge && l->identity && !l->adapters.empty())
      throw Error(TN_E_UNSUPPORTED, "adapter " + l->adapters[0]->name + " sits behind " + l->path + ", where no weight could take it; keep it as an adapter");
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
    if (p.value && !of_linears.contains(&p)) specs.push_back({p.name, file_dtype(dtype), file_shape(p.value)});
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
    if (p.value && !of_linears.contains(&p)) write_tensor_as(engine, p.value, dtype, [&](ByteSpan bytes) { writer.write(p.name, bytes); });
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
  const std::vector<const Parameter*> held = held_by(session, adapter);
  std::vector<TensorSpec> specs;
  for (const Parameter* p : held) specs.push_back({key_of(*p), p->value.dtype() == kI32 ? FileDtype::kI64 : file_dtype(p->value.dtype()), file_shape(p->value)});
  SafetensorsWriter writer(at(folder, "adapter_model.safetensors"), specs, {{"format", "pt"}});
  for (const Parameter* p : held) {
    const auto put = [&](ByteSpan bytes) { writer.write(key_of(*p), bytes); };
    if (!(p->value.dtype() == kI32)) {
      write_tensor(session.engine(), p->value, put);
      continue;
    }
    std::vector<int32_t> narrow(p->value.count());
    session.engine().download(p->value, narrow.data());
    const std::vector<int64_t> wide(narrow.begin(), narrow.end());
    put(std::as_bytes(std::span(wide)));
  }
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
  for (const Parameter* p : held_by(session, adapter)) {
    const std::string key = key_of(*p);
    wanted.insert(key);
    const TensorEntry* entry = reader.find(key);
    if (!entry) throw Error(TN_E_NOT_FOUND, file + ": tensor " + quote_name(key) + " is missing; the adapter is incomplete or belongs to another model");
    if (entry->shape != file_shape(p->value))
      throw Error(TN_E_FORMAT, file + ": tensor " + quote_name(key) + " has another shape than this model asks for; the adapter belongs to another model");
    if (!session.engine().dry()) read_held(session.engine(), reader, *entry, p->value);
  }
  for (const TensorEntry& entry : reader.tensors())
    if (!wanted.contains(entry.name))
      throw Error(TN_E_FORMAT, file + ": tensor " + quote_name(entry.name) + " has no place in this model; the adapter belongs to another model or was made by a newer tool");
}

}  // namespace tenon::trainer
