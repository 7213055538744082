#include "hosts/trainer/run/export.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <span>

#include "core/error.h"
#include "core/files/atomic_file.h"
#include "core/files/json.h"
#include "core/files/safetensors_writer.h"
#include "hosts/trainer/engine/sinks.h"
#include "hosts/trainer/run/export_weights.h"
#include "hosts/trainer/run/tensor_io.h"
#include "hosts/trainer/text/tokenizer/tokenizer_files.h"

namespace tenon::trainer {
namespace {

namespace fs = std::filesystem;

std::string at(const std::string& folder, const char* name) { return (fs::path(folder) / name).string(); }

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

tn_dtype float_dtype(const SafetensorsReader& reader, const TensorEntry& entry) {
  if (entry.dtype == FileDtype::kF32) return kF32;
  if (entry.dtype == FileDtype::kBf16) return kBF16;
  if (entry.dtype == FileDtype::kF16) return kF16;
  throw Error(TN_E_UNSUPPORTED, reader.path() + ": tensor " + quote_name(entry.name) + " must be F32, BF16 or F16");
}

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
  const tn_dtype stored = float_dtype(reader, entry);
  const Tensor stage = engine.empty(Category::kWorkspace, stored, to.shape(), to.ndim());
  read_tensor(engine, reader, entry.name, stage);
  engine.axpby(1, stage, 0, to);
}

// Whether a tensor of the file holds the values of the model's own, in its dtype; some rows at a time.
bool equals(Engine& engine, const SafetensorsReader& reader, const TensorEntry& entry, const Tensor& own) {
  const tn_dtype stored = float_dtype(reader, entry);
  const int64_t rows = own.dim(0), step = std::clamp<int64_t>((int64_t{4} << 20) / (own.dim(1) * 4), 1, rows), row_bytes = own.dim(1) * element_bytes(stored);
  const ByteSpan bytes = engine.dry() ? ByteSpan() : reader.data(entry);
  const Tensor stage = engine.empty(Category::kWorkspace, stored, {step, own.dim(1)}), same = engine.empty(Category::kWorkspace, own.dtype(), {step, own.dim(1)});
  std::vector<std::byte> theirs(static_cast<size_t>(same.bytes())), ours(theirs.size());
  for (int64_t r = 0; r < rows && !engine.dry(); r += step) {
    const int64_t end = std::min(r + step, rows);
    engine.upload(bytes.data() + r * row_bytes, stage.rows(0, end - r));
    engine.axpby(1, stage.rows(0, end - r), 0, same.rows(0, end - r));
    engine.download(same.rows(0, end - r), theirs.data()), engine.download(own.rows(r, end), ours.data());
    if (std::memcmp(theirs.data(), ours.data(), static_cast<size_t>(own.rows(r, end).bytes())) != 0) return false;
  }
  return true;
}

// PEFT writes the model's own embedding and head beside the factors of one. A copy is passed over; a changed one would be another model.
bool repeats_base(Session& session, const Adapter& adapter, const SafetensorsReader& reader, const TensorEntry& entry) {
  constexpr std::string_view kBefore = "base_model.model.", kBehind = ".base_layer.weight";
  if (!entry.name.starts_with(kBefore) || !entry.name.ends_with(kBehind)) return false;
  const std::string path = entry.name.substr(kBefore.size(), entry.name.size() - kBefore.size() - kBehind.size());
  for (const Linear* l : session.model().sites()) {
    if (l->path != path || l->identity || !l->weight || !adapter.retention.contains(l->site) || entry.shape != file_shape(l->weight->value)) continue;
    if (equals(session.engine(), reader, entry, l->weight->value)) return true;
    throw Error(TN_E_UNSUPPORTED, reader.path() + ": tensor " + quote_name(entry.name) + " differs from the model's own " + path +
                                      ", so the adapter belongs to another model or was saved with a changed one; give that model with --model");
  }
  return false;
}

}  // namespace

const char* dtype_name(tn_dtype dtype) { return dtype == kF32 ? "float32" : dtype == kBF16 ? "bfloat16" : "float16"; }

void write_model(const std::string& folder, Session& session, const ModelSource& source, tn_dtype dtype, bool merge, bool tokenizer) {
  const ExportWeights weights = weights_of(session, merge);
  std::vector<TensorSpec> specs;
  for (const ExportWeight& w : weights) specs.push_back({w.name, file_dtype(dtype), w.shape});
  ShardedSafetensorsWriter writer(folder, specs, {{"format", "pt"}});
  for (const ExportWeight& w : weights) write_weight_as(session.engine(), w, dtype, [&](ByteSpan bytes) { writer.write(w.name, bytes); });
  writer.commit();

  if (source.is_preset() || source.is_gguf()) {
    ModelConfig config = session.model().config();
    config.attention = session.techniques().attention_spec;
    config.tied = config.tied && !untied(weights, source);
    write_json_file(at(folder, "config.json"), config_to_json(config, dtype_name(dtype)));
  } else {
    Json config = read_json_file(at(source.path(), "config.json"));
    config[config.contains("dtype") ? "dtype" : "torch_dtype"] = dtype_name(dtype);
    config.erase("quantization_config"), config.erase(kAttentionKey);
    if (untied(weights, source)) config["tie_word_embeddings"] = false;
    if (const ModelConfig& own = session.model().config(); own.edited) config[kEditsKey] = shape_to_json(*own.edited);
    if (const std::string& attention = session.techniques().attention_spec; !attention.empty()) config[kAttentionKey] = attention;
    write_json_file(at(folder, "config.json"), config);
  }
  if (tokenizer) copy_tokenizer_files(source.path(), source.gguf(), folder);
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
  const tn_sink sink = append_to(text);
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
    if (!wanted.contains(entry.name) && !repeats_base(session, adapter, reader, entry))
      throw Error(TN_E_FORMAT, file + ": tensor " + quote_name(entry.name) + " has no place in this model; the adapter belongs to another model or was made by a newer tool");
}

}  // namespace tenon::trainer
