// A host small enough for the test of one technique: error slot, hyper-parameters from the schema's defaults, plugin
// objects loaded as a real host loads them. With device.h and tensor.h this is all that a technique's test needs.
#pragma once

#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "sdk/testing/device.h"
#include "sdk/testing/tensor.h"
#include "tenon/plugin.h"

namespace tenon::sdk::testing {

class FakeHost {
 public:
  FakeHost()
      : table_{{TN_SIZE_TO(tn_host, get_extension), 0, &FakeHost::on_error, &FakeHost::on_log, &FakeHost::on_extension},
               this} {}
  FakeHost(const FakeHost&) = delete;
  const tn_host* get() const { return &table_.host; }

  // The FakeHost behind a host table.
  static FakeHost& of(const tn_host* host) { return *reinterpret_cast<const Table*>(host)->self; }

  std::map<std::string, const void*> extensions;  // offered to plugins, by id
  std::string object;                             // path of the subject; other techniques lie in folders beside its own
  int32_t status = TN_OK;                         // of the last report
  std::string error;                              // its sentence
  std::vector<std::string> log;

 private:
  struct Table {
    tn_host host;
    FakeHost* self;
  };
  static void on_error(const tn_host* host, int32_t status, const char* sentence) {
    of(host).status = status, of(host).error = sentence;
  }
  static void on_log(const tn_host* host, int32_t, const char* sentence) { of(host).log.push_back(sentence); }
  static const void* on_extension(const tn_host* host, const char* id) {
    const auto found = of(host).extensions.find(id);
    return found == of(host).extensions.end() ? nullptr : found->second;
  }
  Table table_;
};

// Every value of a plugin's schema: its default, or what `overrides` says, both as a user would write them.
class HyperValues {
 public:
  HyperValues(const tn_plugin& plugin, const std::map<std::string, std::string>& overrides = {}) {
    auto left = overrides;
    texts_.reserve(plugin.n_hypers), values_.reserve(plugin.n_hypers);
    for (uint64_t i = 0; i < plugin.n_hypers; ++i) {
      const tn_hyper_info& info = *plugin.hypers[i];
      const auto found = left.find(info.name);
      texts_.push_back(found == left.end() ? info.default_value : found->second);
      if (found != left.end()) left.erase(found);
      const std::string& text = texts_.back();
      tn_hyper value{sizeof(tn_hyper), info.type, info.name, 0, 0, nullptr};
      if (info.type == TN_TYPE_INT) value.i = std::strtoll(text.c_str(), nullptr, 10);
      if (info.type == TN_TYPE_FLOAT) value.f = std::strtod(text.c_str(), nullptr);
      if (info.type == TN_TYPE_BOOL) value.i = text == "true" || text == "1";
      if (info.type == TN_TYPE_STRING || info.type == TN_TYPE_CHOICE) value.s = text.c_str();
      values_.push_back(value);
    }
    if (!left.empty())
      fail(TN_E_ARGUMENT, "the test sets " + left.begin()->first + ", which is not in the schema of " + plugin.id);
    for (const tn_hyper& value : values_) pointers_.push_back(&value);
  }
  HyperValues(const HyperValues&) = delete;
  const tn_hyper* const* data() const { return pointers_.data(); }
  uint64_t size() const { return pointers_.size(); }

 private:
  std::vector<std::string> texts_;
  std::vector<tn_hyper> values_;
  std::vector<const tn_hyper*> pointers_;
};

inline bool is_emulated(const std::string& path) {
  return path.ends_with(".emulated.so");
}

// A plugin object, mapped as a real host maps it and never unmapped. Throws when it does not load or refuses.
inline const tn_plugin& load_plugin(const FakeHost& host, const std::string& path) {
  DeviceMemory::get().set_apart(is_emulated(path));
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) fail(TN_E_IO, dlerror());
  const auto entry = reinterpret_cast<tn_plugin_entry_fn>(dlsym(library, TN_PLUGIN_ENTRY_NAME));
  const tn_plugin* plugin = nullptr;
  if (!entry || entry(TN_ABI_MAJOR, TN_ABI_MINOR, host.get(), &plugin) != TN_OK)
    fail(TN_E_VERSION, path + ": " + host.error);
  return *plugin;
}

inline bool cpu_runs(const std::string& path) {
  if (path.find("x86-64-v4") != std::string::npos)
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (path.find("x86-64-v3") != std::string::npos)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return true;
}

// The objects of this test's plugin that this CPU runs (tenon_plugin_test in tenon_plugin.cmake defines the list): a
// test that is parameterised over them proves every instruction set.
#ifdef TENON_PLUGIN_OBJECTS
inline std::vector<std::string> plugin_objects() {
  std::vector<std::string> out;
  const std::string all = TENON_PLUGIN_OBJECTS;
  for (size_t at = 0; at < all.size();) {
    const size_t end = std::min(all.find('|', at), all.size());
    if (const std::string path = all.substr(at, end - at); cpu_runs(path)) out.push_back(path);
    at = end + 1;
  }
  return out;
}
// "v4" of ".../adamw.onednn.x86-64-v4.so", a name for gtest; "wave32" and "wave64" of the emulated GPU's objects.
inline std::string object_label(const std::string& path) {
  if (is_emulated(path)) return path.find("/wave64/") == std::string::npos ? "wave32" : "wave64";
  const std::string level = path.substr(path.rfind("x86-64") + 6);
  return level[0] == '-' ? level.substr(1, 2) : "baseline";
}
#endif

}  // namespace tenon::sdk::testing
