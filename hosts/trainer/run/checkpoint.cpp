#include "hosts/trainer/run/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/atomic_folder.h"
#include "core/files/json.h"
#include "core/files/safetensors.h"
#include "core/files/safetensors_writer.h"
#include "hosts/trainer/run/adapter_steps.h"
#include "hosts/trainer/run/tensor_io.h"

namespace tenon::trainer {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kPrefix = "checkpoint-";

// Every tensor that a checkpoint holds, by key. Keys go by uid and slot, never by position.
std::vector<std::pair<std::string, Tensor>> contents(Session& session) {
  std::vector<std::pair<std::string, Tensor>> all;
  for (const Parameter* p : session.optimizer()->parameters()) {
    const std::string at = std::to_string(p->uid) + ".";
    all.emplace_back(at + "value", p->value);
    if (p->master) all.emplace_back(at + "master", p->master);
    for (size_t i = 0; i < p->states.size(); ++i) all.emplace_back(at + "state." + p->state_names[i], p->states[i]);
  }
  if (const ActivationCodec* codec = session.activation_codec())
    for (const auto& [key, tensor] : codec->statistics()) all.emplace_back(key, tensor);
  // What an adapter keeps beside its trainable parameters.
  const auto& trained = session.optimizer()->parameters();
  for (const Adapter* a : session.adapters())
    for (const auto& p : a->parameters)
      if (p->saved && std::find(trained.begin(), trained.end(), p.get()) == trained.end()) all.emplace_back(std::to_string(p->uid) + ".value", p->value);
  return all;
}

std::vector<std::pair<int64_t, std::string>> checkpoints(const std::string& output) {
  std::vector<std::pair<int64_t, std::string>> found;
  std::error_code ec;
  for (const auto& entry : fs::directory_iterator(output, ec)) {
    const std::string name = entry.path().filename().string();
    if (is_temporary_name(name)) {
      std::error_code ignored;
      fs::remove_all(entry.path(), ignored);
      continue;
    }
    if (!name.starts_with(kPrefix)) continue;
    int64_t step = 0;
    const char* end = name.data() + name.size();
    const auto [p, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
    if (error == std::errc() && p == end && fs::exists(entry.path() / "state.json", ec)) found.emplace_back(step, entry.path().string());
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::string hex(const std::vector<std::byte>& bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string s;
  for (std::byte b : bytes) s += kDigits[static_cast<int>(b) >> 4], s += kDigits[static_cast<int>(b) & 15];
  return s;
}

std::vector<std::byte> unhex(const std::string& s, const std::string& what) {
  std::vector<std::byte> bytes;
  const auto digit = [&](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    throw Error(TN_E_FORMAT, what + ": the optimizer's blob is damaged; resume from an older checkpoint");
  };
  if (s.size() % 2 != 0) digit(0);
  for (size_t i = 0; i < s.size(); i += 2) bytes.push_back(static_cast<std::byte>(digit(s[i]) * 16 + digit(s[i + 1])));
  return bytes;
}

std::map<std::string, std::string> texts(const Json& state, const char* key, const std::string& what) {
  std::map<std::string, std::string> all;
  const Json& object = get_object(state, key, what);
  for (const auto& [name, value] : object.items()) all[name] = get_string(object, name, what);
  return all;
}

}  // namespace

void save_checkpoint(const std::string& output, int64_t step, Session& session, const RunIdentity& identity, int keep) {
  const std::string target = (fs::path(output) / (std::string(kPrefix) + std::to_string(step))).string();
  AtomicFolder folder(target);
  std::vector<TensorSpec> specs;
  const auto all = contents(session);
  for (const auto& [key, tensor] : all) specs.push_back({key, file_dtype(tensor.dtype()), file_shape(tensor)});
  SafetensorsWriter writer((fs::path(folder.path()) / "tensors.safetensors").string(), specs);
  for (const auto& [key, tensor] : all) write_tensor(session.engine_of(tensor), tensor, [&, &name = key](ByteSpan bytes) { writer.write(name, bytes); });
  writer.commit();

  Json updates = Json::object();
  for (const Parameter* p : session.optimizer()->parameters()) updates[std::to_string(p->uid)] = p->updates;
  Json blobs = Json::array();
  for (const auto& blob : session.optimizer()->save_small_states()) blobs.push_back(hex(blob));
  Json adapter_blobs = Json::array();
  for (const Adapter* a : session.adapters()) adapter_blobs.push_back(a->steps ? hex(save_steps(*a)) : "");
  const Json state{{"format", 1},
                   {"step", step},
                   {"tokens_seen", session.tokens_seen},
                   {"settings", identity.settings},
                   {"plugins", identity.plugins},
                   {"updates", updates},
                   {"optimizer_blobs", blobs},
                   {"adapter_blobs", adapter_blobs}};
  write_json_file((fs::path(folder.path()) / "state.json").string(), state);
  folder.commit_replacing();

  auto found = checkpoints(output);
  for (int i = 0; i + keep < static_cast<int>(found.size()); ++i) {
    std::error_code ignored;
    fs::remove_all(found[i].second, ignored);
  }
}

std::optional<std::string> newest_checkpoint(const std::string& output) {
  const auto found = checkpoints(output);
  if (found.empty()) return std::nullopt;
  return found.back().second;
}

int64_t load_checkpoint(const std::string& folder, Session& session, const RunIdentity& identity, std::vector<std::string>& warnings) {
  const std::string what = (fs::path(folder) / "state.json").string();
  const Json state = read_json_file(what);
  if (get_int(state, "format", 1, 1 << 20, what) != 1)
    throw Error(TN_E_VERSION, what + " was written by a newer tenon; resume with that version");
  const std::map<std::string, std::string> saved = texts(state, "settings", what);
  std::string changes;
  for (const auto& [key, value] : identity.settings) {
    const auto it = saved.find(key);
    const std::string before = it == saved.end() ? "(nothing)" : it->second;
    if (before != value && identity.changeable.contains(key))
      changes += (changes.empty() ? "" : ", ") + key + " " + value + " instead of " + before;
    else if (before != value)
      throw Error(TN_E_CONFLICT, folder + " was written with " + key + " " + before + " but this run asks for " + value +
                                     "; resume with the same settings or choose another --output");
  }
  if (!changes.empty()) warnings.push_back("from here on with " + changes + ": no longer what an uninterrupted run would give");
  for (const auto& [id, version] : texts(state, "plugins", what)) {
    const auto it = identity.plugins.find(id);
    if (it != identity.plugins.end() && it->second != version)
      warnings.push_back("the checkpoint was written with " + id + " " + version + ", this run has " + it->second + "; the numbers may differ");
  }

  const SafetensorsReader reader = SafetensorsReader::open((fs::path(folder) / "tensors.safetensors").string());
  const Json adapter_blobs = state.value("adapter_blobs", Json::array());
  for (size_t i = 0; i < session.adapters().size(); ++i) {
    Adapter& a = *session.adapters()[i];
    if (!a.steps) continue;
    if (!adapter_blobs.is_array() || i >= adapter_blobs.size() || !adapter_blobs[i].is_string())
      throw Error(TN_E_FORMAT, what + ": the state of adapter " + a.name + " is missing; resume from an older checkpoint");
    session.optimizer()->rebind(load_steps(session.engine(), a, unhex(adapter_blobs[i].get<std::string>(), what)));
  }
  // An optimizer that chooses what trains has states for that alone, so its own state comes first.
  std::vector<std::vector<std::byte>> blobs;
  for (const Json& blob : get_array(state, "optimizer_blobs", what)) {
    if (!blob.is_string()) throw Error(TN_E_FORMAT, what + ": optimizer_blobs must hold texts; resume from an older checkpoint");
    blobs.push_back(unhex(blob.get<std::string>(), what));
  }
  session.optimizer()->load_small_states(blobs, [&](uint32_t uid) { return reader.find(std::to_string(uid) + ".master") != nullptr; });
  for (const auto& [key, tensor] : contents(session)) read_tensor(session.engine_of(tensor), reader, key, tensor);
  const Json& updates = get_object(state, "updates", what);
  for (Parameter* p : session.optimizer()->parameters()) p->updates = get_int(updates, std::to_string(p->uid), 0, int64_t{1} << 60, what);
  session.tokens_seen = get_int(state, "tokens_seen", 0, int64_t{1} << 60, what);
  return get_int(state, "step", 0, int64_t{1} << 60, what);
}

}  // namespace tenon::trainer
