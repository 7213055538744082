// The side of the probe that runs in the child process.
#include <signal.h>
#include <sys/resource.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/posix_io.h"
#include "core/plugins/host.h"
#include "core/plugins/library.h"
#include "core/plugins/manifest.h"
#include "core/plugins/probe.h"
#include "core/plugins/spec.h"
#include "core/sentence.h"
#include "tenon/edits.h"

namespace tenon {
namespace {

template <size_t N>
std::vector<std::string> tags_of(uint32_t bits, const std::pair<uint32_t, const char*> (&names)[N]) {
  std::vector<std::string> tags;
  for (const auto& [bit, name] : names) {
    if (bits & bit) tags.emplace_back(name);
  }
  return tags;
}

std::vector<std::string> capability_tags(const LoadedPlugin& plugin) {
  static constexpr std::pair<uint32_t, const char*> kOptimizer[] = {
      {TN_OPTIMIZER_ONE_AT_A_TIME, "optimizer:one-at-a-time"},
      {TN_OPTIMIZER_ROWWISE, "optimizer:rowwise"},
      {TN_OPTIMIZER_ELEMENTWISE, "optimizer:elementwise"}};
  static constexpr std::pair<uint32_t, const char*> kAdapter[] = {{TN_ADAPTER_MERGES, "adapter:merges"}};
  static constexpr std::pair<uint32_t, const char*> kQuantizer[] = {
      {TN_SITE_WEIGHT, "quantizer:weight"},
      {TN_SITE_OPTIMIZER_STATE, "quantizer:optimizer-state"},
      {TN_SITE_ACTIVATION, "quantizer:activation"},
      {TN_SITE_KV_CACHE, "quantizer:kv-cache"},
      {TN_SITE_DELTA, "quantizer:delta"},
      {TN_SITE_MODEL, "quantizer:model"}};
  switch (plugin.kind()) {
    case TN_KIND_OPTIMIZER:
      return tags_of(plugin.api<tn_optimizer_api>().caps, kOptimizer);
    case TN_KIND_ADAPTER:
      return tags_of(plugin.api<tn_adapter_api>().caps, kAdapter);
    case TN_KIND_QUANTIZER:
      return tags_of(plugin.api<tn_quantizer_api>().sites, kQuantizer);
    case TN_KIND_ATTENTION:
      return {plugin.api<tn_attention_api>().placement == TN_PLACEMENT_CORE ? "attention:core" : "attention:sublayer"};
    default:
      return {};
  }
}

// An instance with default parameters comes and goes. A technique that cannot live on its defaults refuses in words,
// which is fine.
template <class Api, class Handle, class... More>
void try_instance(const LoadedPlugin& plugin, More... more) {
  const Spec spec = parse_spec(plugin.id(), plugin.schema());
  const HyperArray hypers(spec);
  const Api& api = plugin.api<Api>();
  Handle* instance = nullptr;
  const int32_t status = api.create(host(), hypers.data(), hypers.size(), more..., &instance);
  if (status < 0) {
    if (take_report().sentence.empty())
      throw Error(TN_E_FORMAT, plugin.path() + ": create failed without a word about the reason");
    return;
  }
  if (!instance) throw Error(TN_E_FORMAT, plugin.path() + ": create succeeded but gave no instance");
  api.destroy(instance);
}

void try_plugin(const LoadedPlugin& plugin) {
  switch (plugin.kind()) {
    case TN_KIND_DEVICE: {
      uint32_t n = 0;
      check(plugin.api<tn_device_api>().count(host(), &n), plugin.path() + ": its devices could not be counted");
      break;
    }
    case TN_KIND_OPTIMIZER:
      try_instance<tn_optimizer_api, tn_optimizer>(plugin);
      break;
    case TN_KIND_ADAPTER:
      try_instance<tn_adapter_api, tn_adapter>(plugin, static_cast<const char*>(nullptr));
      break;
    case TN_KIND_QUANTIZER:
      try_instance<tn_quantizer_api, tn_quantizer>(plugin);
      break;
    case TN_KIND_ATTENTION: {
      const tn_attention_config config = {
          TN_SIZE_TO(tn_attention_config, softcap), 4, 2, 32, 32, 0, 1, 0, 4, 0, 0.0, 0.0};
      try_instance<tn_attention_api, tn_attention>(plugin, &config);
      break;
    }
  }
}

Json describe(const std::string& path) {
  const LoadedPlugin plugin = load_library(path);
  try_plugin(plugin);
  const tn_plugin& d = plugin.descriptor();
  Manifest form;  // the manifest's own form of a schema travels to the parent
  form.hypers = plugin.schema();
  return {{"id", d.id},
          {"version", d.version},
          {"backend", d.backend},
          {"kind", d.kind},
          {"abi", {d.abi_major, d.abi_minor}},
          {"hypers", Json::parse(manifest_text(form)).at("hypers")},
          {"tags", capability_tags(plugin)}};
}

}  // namespace

int run_probe_child(const std::string& path, int answer_fd) {
  const rlimit no_core = {0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  // A crash must end this process as one, even where a sanitizer would rather explain it.
  for (const int crash : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) signal(crash, SIG_DFL);
  Json answer;
  try {
    answer = describe(path);
  } catch (const Error& e) {
    answer = {{"status", e.code()}, {"error", clean_sentence(e.what())}};
  } catch (const std::exception& e) {
    answer = {{"status", TN_E_INTERNAL}, {"error", path + ": " + clean_sentence(e.what())}};
  }
  write_all(answer_fd, as_bytes(answer.dump(-1, ' ', false, Json::error_handler_t::replace)),
            "the answer of the probe");
  return answer.contains("error") ? 1 : 0;
}

}  // namespace tenon
