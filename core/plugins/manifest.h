// manifest.json: what a plugin says about itself before anything of it is loaded. The format is in MANIFEST.md.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/files/json.h"
#include "core/plugins/schema.h"

namespace tenon {

// One shared object: for a backend, an architecture and, on CPUs, the features that it uses, on GPUs what it holds code for.
struct ObjectFile {
  std::string backend, file, sha256, arch;
  std::vector<std::string> cpu;
  std::vector<std::string> gpu = {};  // targets of its GPU code: "sm_90", "compute_90" (PTX), "gfx90a"
  std::string runtime = {};           // that its GPU code was built against: "CUDA 13.0"

  bool operator==(const ObjectFile&) const = default;
};

// A row of the relation of what mixes with what. In `requires` the tag may list alternatives:
// "run:eval|run:adapter-tuning".
struct Relation {
  std::string tag, reason;

  bool operator==(const Relation&) const = default;
};

struct Manifest {
  std::string id, version, name, summary, license;
  uint32_t kind = TN_KIND_UNDEFINED;
  struct {
    std::string title, url;
    int64_t year = 0;
  } paper;
  uint32_t abi_major = 0, abi_minor = 0;
  std::vector<ObjectFile> objects;  // best first within a backend
  Schema hypers;
  std::vector<std::string> provides, layouts;
  std::vector<Relation> requires_, conflicts;

  // The backends that objects exist for, each once, in order.
  std::vector<std::string> backends() const;
};

// What an author writes has no version, digests or hyper-parameters yet; `seal` fills them in, and only then can it be
// installed.
enum class ManifestState { kAuthored, kSealed };

// Parses and checks; `what` begins every error ("lora/manifest.json"). Unknown keys are ignored in a sealed manifest,
// since a newer Tenon may have written them, and refused in an authored one, where they are typing errors.
Manifest parse_manifest(std::string_view text, const std::string& what, ManifestState state = ManifestState::kSealed);

// Reads `folder`/manifest.json; a file over 1 MiB is refused before it is read.
Manifest read_manifest(const std::string& folder, ManifestState state = ManifestState::kSealed);

// Whether `name` can be the name of a file of a plugin: letters, digits, '.', '_', '-' and '+', not starting with '.', at
// most 200 bytes.
bool plain_file_name(std::string_view name);

// The form of a schema in a manifest.
Schema parse_schema(const Json& array, const std::string& what);

// The sealed form, which parse_manifest reads back to the same value.
std::string manifest_text(const Manifest& manifest);

}  // namespace tenon
