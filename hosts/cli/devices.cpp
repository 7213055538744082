// tenon devices: what computes here, and what each installed technique has for it.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/device/device.h"
#include "core/error.h"
#include "core/memory/memory.h"
#include "core/plugins/kinds.h"
#include "hosts/cli/arguments.h"
#include "hosts/cli/command.h"
#include "hosts/cli/output.h"
#include "hosts/trainer/run/features.h"

namespace tenon::cli {
namespace {

using Json = nlohmann::json;

Json describe(const Device& device, const std::string& name, bool measure) {
  const tn_device_info info = device.info(measure);
  Json j{{"device", name},          {"name", info.name},
         {"capability", info.arch}, {"libraries", info.runtime},
         {"units", info.n_threads}, {"total_bytes", info.total_bytes},
         {"free_bytes", info.free_bytes}};
  if (measure) {
    j["gemm_dtype"] = info.gemm_dtype.code == TN_BFLOAT ? "bf16" : "f32";
    j["gemm_flops"] = info.gemm_flops, j["bytes_per_second"] = info.bytes_per_second;
  }
  return j;
}

// All devices of a plugin, or why there is none.
Json devices_of(const Catalog& catalog, const PluginRow& row, bool measure) {
  Json out{{"plugin", row.id}, {"version", row.version}, {"devices", Json::array()}, {"reason", nullptr}};
  for (int index = 0;; ++index) {
    const std::string name = row.id + ":" + std::to_string(index);
    try {
      const Device device = Device::open(catalog, name);
      out["backend"] = device.backend();
      out["devices"].push_back(describe(device, name, measure));
    } catch (const Error& e) {
      if (index > 0 && e.code() == TN_E_NOT_FOUND) break;  // past the last one
      out["reason"] = e.what();
      break;
    }
  }
  if (!out.contains("backend")) out["backend"] = row.backends.size() == 1 ? row.backends[0] : row.id;
  // Techniques by whether they have an object for this backend.
  Json with = Json::array(), without = Json::array();
  for (const PluginRow& p : catalog.list({})) {
    if (p.kind == TN_KIND_DEVICE) continue;
    const bool has = std::find_if(p.backends.begin(), p.backends.end(), [&](const std::string& b) { return b == out["backend"] || b == "any"; }) !=
                     p.backends.end();
    (has ? with : without).push_back(p.id);
  }
  out["techniques"] = with, out["techniques_missing"] = without;
  return out;
}

// How many have an object for it, and which have not; --json names all.
void print_techniques(const Json& with, const Json& without) {
  if (without.empty()) {
    std::printf("  techniques all %zu that are installed\n", with.size());
    return;
  }
  std::string names;
  for (const auto& n : without) names += (names.empty() ? "" : ", ") + n.get<std::string>();
  std::printf("  techniques %zu of %zu; none of %s\n", with.size(), with.size() + without.size(), names.c_str());
}

void print(const Json& plugin) {
  for (const Json& d : plugin["devices"]) {
    std::printf("%s  %s (%s)\n", d["device"].get<std::string>().c_str(), d["name"].get<std::string>().c_str(),
                d["capability"].get<std::string>().c_str());
    std::printf("  memory     %s free of %s\n", format_bytes(d["free_bytes"]).c_str(), format_bytes(d["total_bytes"]).c_str());
    std::printf("  libraries  %s\n", d["libraries"].get<std::string>().c_str());
    if (d.contains("gemm_flops"))
      std::printf("  measured   %.3g GFLOP/s in %s, %.3g GB/s\n", d["gemm_flops"].get<double>() * 1e-9, d["gemm_dtype"].get<std::string>().c_str(),
                  d["bytes_per_second"].get<double>() * 1e-9);
  }
  if (plugin["devices"].empty())
    std::printf("%s  not available: %s\n", plugin["plugin"].get<std::string>().c_str(), plugin["reason"].get<std::string>().c_str());
  print_techniques(plugin["techniques"], plugin["techniques_missing"]);
}

}  // namespace

int run_devices(const std::vector<std::string>& arguments) {
  po::options_description options("Flags");
  auto add = options.add_options();
  add("measure", "also time copies and matrix products");
  add("json", "print a list of device plugins with their devices and techniques");
  po::variables_map values;
  if (!parse(arguments, options, {},
             "tenon devices\n\nEvery device of every installed device plugin: capability, free memory, library versions, and which techniques have no\n"
             "object for it. A plugin without a device here says why.\n",
             values))
    return 0;
  const Catalog catalog = trainer::open_catalog();
  Json all = Json::array();
  for (const PluginRow& row : catalog.list({.kind = "device"})) all.push_back(devices_of(catalog, row, values.count("measure") > 0));
  if (all.empty()) throw Error(TN_E_NOT_FOUND, "no device plugin is installed; install one with `tenon plugin install FOLDER`");
  if (values.count("json")) {
    print_json(all);
  } else {
    for (const Json& plugin : all) print(plugin);
  }
  return 0;
}

}  // namespace tenon::cli
