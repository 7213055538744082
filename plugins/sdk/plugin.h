// Describing a plugin: hyper-parameter schemas as constants, typed access to their values, and the one exported symbol.
#pragma once

#include <cmath>
#include <cstring>
#include <string>
#include <string_view>

#include "sdk/base.h"
#include "tenon/host.h"

namespace tenon::sdk {

inline constexpr double kInfinity = __builtin_huge_val();

constexpr tn_hyper_info integer(const char* name, const char* fallback, double min, double max, const char* unit, const char* doc) {
  return {sizeof(tn_hyper_info), TN_TYPE_INT, name, fallback, min, max, 0, 0, nullptr, unit, doc};
}
// flags: TN_RANGE_OPEN_MIN | TN_RANGE_OPEN_MAX
constexpr tn_hyper_info real(const char* name, const char* fallback, double min, double max, uint32_t flags, const char* unit,
                             const char* doc) {
  return {sizeof(tn_hyper_info), TN_TYPE_FLOAT, name, fallback, min, max, flags, 0, nullptr, unit, doc};
}
constexpr tn_hyper_info flag(const char* name, const char* fallback, const char* doc) {
  return {sizeof(tn_hyper_info), TN_TYPE_BOOL, name, fallback, 0, 1, 0, 0, nullptr, nullptr, doc};
}
// choices: "std|left|right"
constexpr tn_hyper_info choice(const char* name, const char* fallback, const char* choices, const char* doc) {
  return {sizeof(tn_hyper_info), TN_TYPE_CHOICE, name, fallback, 0, 0, 0, 0, choices, nullptr, doc};
}
constexpr tn_hyper_info text(const char* name, const char* fallback, const char* doc) {
  return {sizeof(tn_hyper_info), TN_TYPE_STRING, name, fallback, 0, 0, 0, 0, nullptr, nullptr, doc};
}

// The values that create() received, by name. A name that is not in the schema is a defect of the plugin.
class Hypers {
 public:
  Hypers(const tn_hyper* const* values, uint64_t n) : values_(values), n_(n) {}
  int64_t integer(std::string_view name) const { return find(name).i; }
  double real(std::string_view name) const { return find(name).f; }
  bool flag(std::string_view name) const { return find(name).i != 0; }
  std::string_view text(std::string_view name) const { return find(name).s ? find(name).s : ""; }

 private:
  const tn_hyper& find(std::string_view name) const {
    for (uint64_t i = 0; i < n_; ++i)
      if (name == values_[i]->name) return *values_[i];
    fail(TN_E_ARGUMENT, "hyper-parameter " + std::string(name) + " was not passed to create; the host must fill in every key of the schema");
  }
  const tn_hyper* const* values_;
  uint64_t n_;
};

// Negotiation: same major, offered minor >= needed minor.
inline int32_t enter(uint32_t major, uint32_t minor, const tn_host* host, const tn_plugin& plugin, const tn_plugin** out) noexcept {
  if (major != plugin.abi_major || minor < plugin.abi_minor) {
    return guard(host, [&] {
      fail(TN_E_VERSION, std::string(plugin.id) + " speaks ABI " + std::to_string(plugin.abi_major) + "." + std::to_string(plugin.abi_minor) +
                             " but the host offers " + std::to_string(major) + "." + std::to_string(minor) + "; install a matching version");
    });
  }
  *out = &plugin;
  return TN_OK;
}

// Init and deinit that count and do nothing else suit every technique of ours: instances hold all state.
inline int32_t no_init(const tn_host*) { return TN_OK; }
inline void no_deinit() {}
inline const void* no_extension(const char*) { return nullptr; }

// TENON_BACKEND is set by the build for each object.
#ifndef TENON_BACKEND
#define TENON_BACKEND "onednn"
#endif

// Refuses a question about a device that this object was not compiled for.
inline void require_own_device(const char* id, const tn_query& q) {
#if defined(__CUDACC__)
  const bool own = q.device.type == TN_CUDA;
#elif defined(__HIP__)
  const bool own = q.device.type == TN_ROCM;
#elif defined(TENON_EMULATED_WAVE)
  const bool own = q.device.type == TN_CPU || q.device.type == 12;  // DLPack's extension device
#else
  const bool own = q.device.type == TN_CPU;
#endif
  if (!own)
    fail(TN_E_UNSUPPORTED, std::string(id) + ": this object runs on the backend " TENON_BACKEND "; load the plugin's object of that device");
}

// The descriptor of a technique.
template <size_t N>
constexpr tn_plugin describe(uint32_t kind, const char* id, const char* version, const tn_hyper_info* const (&hypers)[N], const void* api,
                             const void* (*get_extension)(const char*) = no_extension) {
  return {TN_SIZE_TO(tn_plugin, get_extension), kind, 0, 9, id, version, TENON_BACKEND, hypers, N, no_init, no_deinit, api, get_extension};
}

}  // namespace tenon::sdk

// A GPU object notes what it was built against, for the manifest.
#define TN_TEXT_OF(x) #x
#define TN_TEXT(x) TN_TEXT_OF(x)
#if defined(__CUDACC__)
#define TENON_GPU_NOTE \
  __attribute__((used)) static const char tn_gpu_note[] = "tenon gpu runtime: CUDA " TN_TEXT(__CUDACC_VER_MAJOR__) "." TN_TEXT(__CUDACC_VER_MINOR__);
#elif defined(__HIP__)
#define TENON_GPU_NOTE \
  __attribute__((used)) static const char tn_gpu_note[] = "tenon gpu runtime: HIP " TN_TEXT(HIP_VERSION_MAJOR) "." TN_TEXT(HIP_VERSION_MINOR);
#else
#define TENON_GPU_NOTE
#endif

// Defines the one exported symbol over a constant tn_plugin.
#define TENON_PLUGIN(descriptor)                                                                                                    \
  TENON_GPU_NOTE                                                                                                                     \
  extern "C" TN_EXPORT int32_t tn_plugin_entry(uint32_t major, uint32_t minor, const tn_host* host, const tn_plugin** out) {         \
    return tenon::sdk::enter(major, minor, host, descriptor, out);                                                                   \
  }
