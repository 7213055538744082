// tenon plugin install, remove, verify, rescan: what changes or checks the stores.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/catalog/catalog.h"
#include "core/error.h"
#include "core/plugins/kinds.h"
#include "core/plugins/locations.h"
#include "hosts/cli/output.h"
#include "hosts/cli/plugin_verbs.h"

namespace tenon::cli {
namespace {

// The user's store, where `install` writes.
Store writable_store() {
  const std::string path = user_store();
  if (path.empty())
    throw Error(TN_E_NOT_FOUND,
                "there is no folder to install into, since neither TENON_HOME nor HOME is set; set TENON_HOME to an "
                "absolute path");
  return Store(path);
}

// The user's store and the one that came with the installation, as far as they are there.
std::vector<std::string> existing_stores() {
  std::vector<std::string> out;
  std::error_code error;
  for (const std::string& path : {user_store(), bundled_store()})
    if (!path.empty() && std::filesystem::is_directory(path, error) &&
        std::find(out.begin(), out.end(), path) == out.end())
      out.push_back(path);
  return out;
}

}  // namespace

int plugin_install(const po::variables_map& values) {
  if (!values.count("argument")) throw Usage("name a package or the folder of a plugin: tenon plugin install PATH");
  Store store = writable_store();
  Json out = Json::array();
  int failures = 0;
  const InstallOptions options = {.allow_older = values.count("allow-older") > 0,
                                  .allow_unsigned = values.count("allow-unsigned") > 0,
                                  .allow_unknown_key = values.count("allow-unknown-key") > 0};
  for (const std::string& path : values["argument"].as<std::vector<std::string>>()) {
    try {
      const InstallReport r = store.install(path, options);
      out.push_back({{"id", r.manifest.id},
                     {"version", r.manifest.version},
                     {"kind", kind_name(r.manifest.kind)},
                     {"changed", r.changed},
                     {"notes", r.notes},
                     {"signer", r.signer.empty() ? Json() : Json(r.signer)},
                     {"replaced", r.changed && !r.replaced.empty() ? Json(r.replaced) : Json()}});
      for (const std::string& note : r.notes) remark("note: " + note);
      if (!values.count("json"))
        std::printf("%s %s %s%s\n", r.manifest.id.c_str(), r.manifest.version.c_str(),
                    !r.changed           ? "was installed already"
                    : r.replaced.empty() ? "installed"
                                         : ("installed in place of " + r.replaced).c_str(),
                    r.signer.empty() ? "" : (", signed by " + r.signer).c_str());
    } catch (const Error& e) {
      ++failures;
      out.push_back({{"path", path}, {"error", e.what()}});
      remark(std::string("tenon: ") + e.what());
    }
  }
  if (values.count("json")) print_json(out);
  return failures ? 1 : 0;
}

int plugin_remove(const po::variables_map& values) {
  const std::string id = required(values, "argument");
  Store store = writable_store();
  try {
    store.remove(id);
  } catch (const Error& e) {
    if (e.code() != TN_E_NOT_FOUND) throw;
    const Catalog catalog = Catalog::open_default();
    (void)catalog.info(id);  // an unknown id names the nearest
    throw Error(TN_E_NOT_FOUND, id + " came with this installation (" + catalog.folder(id) +
                                    "); only what you installed yourself can be removed");
  }
  if (values.count("json"))
    print_json({{"removed", id}});
  else
    std::printf("%s removed\n", id.c_str());
  return 0;
}

int plugin_verify(const po::variables_map& values) {
  if (values.count("argument"))
    return verify_packages(values["argument"].as<std::vector<std::string>>(), values.count("json") > 0);
  Json stores = Json::array(), findings = Json::array();
  uint64_t total = 0;
  for (const std::string& path : existing_stores()) {
    uint64_t count = 0;
    for (const VerifyFinding& f : Store(path).verify(&count)) {
      findings.push_back({{"id", f.id}, {"problem", f.problem}});
      if (!values.count("json")) std::printf("%s\n", f.problem.c_str());
    }
    stores.push_back({{"store", path}, {"plugins", count}});
    total += count;
  }
  if (values.count("json"))
    print_json({{"sound", findings.empty()}, {"stores", stores}, {"findings", findings}});
  else if (findings.empty())
    std::printf("%s plugins, every object as it was installed\n", with_commas(static_cast<int64_t>(total)).c_str());
  return findings.empty() ? 0 : 1;
}

int plugin_rescan(const po::variables_map& values) {
  Json out = Json::array();
  bool sound = true;
  for (const std::string& path : existing_stores()) {
    if (access(path.c_str(), W_OK) != 0) {
      remark("note: " + path + " cannot be written by you and was left as it is");
      continue;
    }
    const RescanReport r = Store(path).rescan();
    out.push_back({{"store", path}, {"plugins", r.plugins}, {"problems", r.problems}});
    sound = sound && r.problems.empty();
    if (!values.count("json"))
      std::printf("%s: %s plugins\n", path.c_str(), with_commas(static_cast<int64_t>(r.plugins)).c_str());
    for (const std::string& problem : r.problems) remark("tenon: " + problem);
  }
  if (values.count("json")) print_json(out);
  return sound ? 0 : 1;
}

}  // namespace tenon::cli
