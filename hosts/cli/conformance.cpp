// tenon conformance: put a plugin through the battery.
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/catalog/catalog.h"
#include "core/error.h"
#include "core/plugins/cpu.h"
#include "core/plugins/elf.h"
#include "core/plugins/sha256.h"
#include "hosts/cli/arguments.h"
#include "hosts/cli/command.h"
#include "hosts/cli/output.h"
#include "hosts/conformance/conformance.h"

namespace tenon::cli {
namespace {

namespace fs = std::filesystem;
using conformance::CheckResult;

// An object to test and the backend whose device it runs on.
struct Object {
  std::string path, backend;
  uint32_t kind = TN_KIND_UNDEFINED;
};

bool runs_here(const ObjectFile& o) {
  return o.arch == host_arch() && missing_cpu_features(o.cpu).empty();
}

// Every object of the manifest that this machine can run.
std::vector<Object> objects_in(const std::string& folder, const Manifest& manifest, bool check_digest) {
  std::vector<Object> out;
  for (const ObjectFile& o : manifest.objects) {
    if (!runs_here(o)) continue;
    const std::string path = (fs::path(folder) / o.file).string();
    if (check_digest && sha256_of_file(path) != o.sha256)
      throw Error(TN_E_TRUST,
                  path + ": the object differs from what was installed; run `tenon plugin verify`, then install " +
                      manifest.id + " again");
    out.push_back({path, o.backend == "any" ? "onednn" : o.backend, manifest.kind});
  }
  if (out.empty())
    throw Error(TN_E_DEVICE, manifest.id + " has no object that this machine can run; install a build for it");
  return out;
}

// PATH is an object, or the folder of a plugin, sealed or not; anything else is the id of an installed plugin.
std::vector<Object> find_objects(const std::string& name, const Catalog& catalog) {
  std::error_code error;
  if (fs::is_regular_file(name, error)) return {{name, "onednn", TN_KIND_UNDEFINED}};
  if (fs::is_directory(name, error)) return objects_in(name, read_manifest(name), false);
  if (name.find('/') != std::string::npos)
    throw Error(TN_E_NOT_FOUND,
                name + " does not exist; give an object, the folder of a plugin, or the id of an installed one");
  const Manifest manifest = catalog.info(name);
  return objects_in(catalog.folder(manifest.id), manifest, true);
}

std::string device_for(const Object& object, const Catalog& catalog) {
  if (object.kind == TN_KIND_DEVICE) return {};
  PluginFilter filter;
  filter.kind = "device", filter.backend = object.backend;
  const auto rows = catalog.list(filter);
  if (rows.empty()) {
    if (object.kind == TN_KIND_UNDEFINED) return {};  // a bare object may be a device itself
    throw Error(TN_E_NOT_FOUND, "no device plugin for the backend " + object.backend +
                                    " is installed, and a technique is tested on one; install it first");
  }
  return objects_in(catalog.folder(rows[0].id), catalog.info(rows[0].id), true)[0].path;
}

const char* word(CheckResult::Outcome outcome) {
  return outcome == CheckResult::Outcome::kOk       ? "ok"
         : outcome == CheckResult::Outcome::kFailed ? "failed"
                                                    : "not applicable";
}

void print_row(const CheckResult& r) {
  std::printf("  %-20s %-15s %s\n", r.name.c_str(), word(r.outcome),
              r.reason.empty() ? r.proves.c_str() : r.reason.c_str());
  std::fflush(stdout);
}

}  // namespace

int run_conformance(const std::vector<std::string>& arguments) {
  po::options_description options("Flags");
  auto add = options.add_options();
  add("plugin", po::value<std::string>(), "object, folder or id (also without the flag)");
  add("check", po::value<std::vector<std::string>>()->composing(), "only the check of this name; may be given again");
  add("timeout", po::value<std::string>()->default_value("120"), "seconds that one check may take");
  add("json",
      "print {\"conforms\": …, \"objects\": [{\"object\", \"checks\": [{\"name\", \"outcome\", \"reason\", "
      "\"seconds\"}]}]}");
  po::positional_options_description positional;
  positional.add("plugin", 1);
  po::variables_map values;
  if (!parse(
          arguments, options, positional,
          "tenon conformance PATH|ID\n\nPuts every object of a plugin that this machine can run through the battery of "
          "its kind: negotiation, memory\n"
          "fences, determinism, numbers against references, refusals. Each check runs in a process of its own, so a\n"
          "plugin that crashes or hangs fails that check and nothing else. Exit 0: it conforms; 1: it does not.\n",
          values))
    return 0;
  const std::string name = required(values, "plugin");
  conformance::Options run;
  run.timeout = std::chrono::seconds(checked_int(values, "timeout", 1, 86400));
  if (values.count("check")) run.only = values["check"].as<std::vector<std::string>>();
  const bool json = values.count("json") > 0;
  if (!json) run.on_result = print_row;

  std::vector<conformance::Target> targets;
  {
    const Catalog catalog = Catalog::open_default();
    for (const Object& object : find_objects(name, catalog))
      targets.push_back({object.path, device_for(object, catalog)});
  }
  bool sound = true;
  nlohmann::json objects = nlohmann::json::array();
  for (const conformance::Target& target : targets) {
    if (!json) std::printf("%s\n", target.object.c_str());
    const auto results = run_battery(target, run);
    if (results.empty())
      throw Usage("no check of this plugin's kind has that name; run without --check to see them all");
    sound = sound && conforms(results);
    nlohmann::json checks = nlohmann::json::array();
    size_t counts[3] = {};
    for (const CheckResult& r : results) {
      ++counts[static_cast<int>(r.outcome)];
      checks.push_back({{"name", r.name},
                        {"outcome", word(r.outcome)},
                        {"proves", r.proves},
                        {"reason", r.reason},
                        {"seconds", r.seconds}});
    }
    objects.push_back({{"object", target.object}, {"device", target.device_object}, {"checks", checks}});
    if (!json) std::printf("%zu ok, %zu failed, %zu not applicable\n", counts[0], counts[1], counts[2]);
  }
  if (json) print_json({{"conforms", sound}, {"objects", objects}});
  return sound ? 0 : 1;
}

}  // namespace tenon::cli
