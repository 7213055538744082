#include "core/plugins/seal.h"

#include <algorithm>
#include <filesystem>
#include <optional>

#include "core/error.h"
#include "core/files/atomic_file.h"
#include "core/files/mapped_file.h"
#include "core/plugins/cpu.h"
#include "core/plugins/elf.h"
#include "core/plugins/gpu_code.h"
#include "core/plugins/kinds.h"
#include "core/plugins/probe.h"
#include "core/plugins/sha256.h"

namespace tenon {
namespace {

namespace fs = std::filesystem;

// "galore.onednn.x86-64-v4.so" of the plugin galore; null for other files.
std::optional<ObjectFile> object_from_name(const std::string& id, const std::string& file) {
  if (!file.starts_with(id + '.') || !file.ends_with(".so") || file.size() <= id.size() + 4) return std::nullopt;
  const std::string middle = file.substr(id.size() + 1, file.size() - id.size() - 4);
  const size_t dot = middle.find('.');
  ObjectFile object{middle.substr(0, dot), file, "", "", {}};
  if (dot == std::string::npos) return object;
  // A level implies those below it; the whole list is stated, so that the loader need not know levels.
  const std::string level = middle.substr(dot + 1);
  for (const char* const step : {"x86-64-v2", "x86-64-v3", "x86-64-v4"}) {
    for (std::string& feature : cpu_level_features(step)) object.cpu.push_back(std::move(feature));
    if (level == step) return object;
  }
  return std::nullopt;
}

void find_objects(const std::string& folder, Manifest& manifest) {
  std::vector<ObjectFile> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string file = entry.path().filename();
    const auto listed = [&](const ObjectFile& o) { return o.file == file; };
    if (std::any_of(manifest.objects.begin(), manifest.objects.end(), listed)) continue;
    if (auto object = object_from_name(manifest.id, file)) found.push_back(std::move(*object));
  }
  // More features = the better object; the name settles the rest, so that sealing gives the same manifest everywhere.
  std::sort(found.begin(), found.end(), [](const ObjectFile& a, const ObjectFile& b) {
    if (a.backend != b.backend) return a.backend < b.backend;
    return a.cpu.size() != b.cpu.size() ? a.cpu.size() > b.cpu.size() : a.file < b.file;
  });
  manifest.objects.insert(manifest.objects.end(), found.begin(), found.end());
  if (manifest.objects.empty()) {
    throw Error(TN_E_NOT_FOUND,
                folder + ": there is no object of " + manifest.id + " here; name it " + manifest.id + ".BACKEND.so");
  }
}

void take_description(Manifest& manifest, const ObjectDescription& said) {
  manifest.abi_major = said.abi_major;
  manifest.abi_minor = said.abi_minor;
  manifest.hypers = said.hypers;
  for (const std::string& tag : said.tags) {
    if (std::find(manifest.provides.begin(), manifest.provides.end(), tag) == manifest.provides.end())
      manifest.provides.push_back(tag);
  }
}

}  // namespace

void check_agreement(const std::string& path, const Manifest& manifest, const ObjectFile& object,
                     const ObjectDescription& said) {
  const auto differ = [&](const char* thing, const std::string& in_object, const std::string& in_manifest) {
    throw Error(TN_E_CONFLICT, path + ": the object says its " + thing + " is " + in_object +
                                   " but the manifest says " + in_manifest + "; seal the plugin's folder again");
  };
  if (said.id != manifest.id) differ("id", said.id, manifest.id);
  if (said.kind != manifest.kind)
    differ("kind", std::string(kind_name(said.kind)), std::string(kind_name(manifest.kind)));
  if (said.version != manifest.version) differ("version", said.version, manifest.version);
  if (said.backend != object.backend) differ("backend", said.backend, object.backend);
  if (said.hypers == manifest.hypers) return;
  for (size_t i = 0; i < std::max(said.hypers.size(), manifest.hypers.size()); ++i) {
    const std::string a = i < said.hypers.size() ? said.hypers[i].name : "missing";
    const std::string b = i < manifest.hypers.size() ? manifest.hypers[i].name : "there is none";
    if (a != b) differ(("hyper-parameter " + std::to_string(i + 1)).c_str(), a, b);
    if (said.hypers[i] != manifest.hypers[i])
      differ(("hyper-parameter " + a).c_str(), "declared in one way", "another");
  }
}

Manifest seal(const std::string& folder) {
  Manifest manifest = read_manifest(folder, ManifestState::kAuthored);
  find_objects(folder, manifest);
  bool described = false;
  std::string why;
  for (ObjectFile& object : manifest.objects) {
    const std::string path = fs::path(folder) / object.file;
    object.sha256 = sha256_of_file(path);
    object.arch = object_arch(path);
    GpuCode code = gpu_code(MappedFile(path).bytes());
    object.gpu = std::move(code.targets), object.runtime = std::move(code.runtime);
    if (object.arch != host_arch() || !missing_cpu_features(object.cpu).empty()) continue;
    const Probe probe = probe_object(path);
    if (probe.outcome == Probe::Outcome::kBroken) throw Error(TN_E_FORMAT, probe.sentence);
    if (probe.outcome == Probe::Outcome::kNotForHere) {
      why = " (" + probe.sentence + ")";
      continue;
    }
    if (manifest.version.empty()) manifest.version = probe.description.version;
    if (!described) take_description(manifest, probe.description);
    described = true;
    check_agreement(path, manifest, object, probe.description);
  }
  if (!described) {
    throw Error(TN_E_DEVICE, folder + ": none of the plugin's objects can run on this machine" + why +
                                 ", so its hyper-parameters cannot be read; seal it on a machine that can run one");
  }
  write_file_atomically(fs::path(folder) / "manifest.json", manifest_text(manifest));
  return manifest;
}

}  // namespace tenon
