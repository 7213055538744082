// Manifests from strangers end in a value that reads back, or in one Error.
#include <cstdlib>
#include <string>

#include "core/error.h"
#include "core/plugins/manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  for (const auto state : {tenon::ManifestState::kSealed, tenon::ManifestState::kAuthored}) {
    try {
      const tenon::Manifest manifest = tenon::parse_manifest(text, "fuzz", state);
      if (state == tenon::ManifestState::kAuthored) continue;
      const std::string once = tenon::manifest_text(manifest);
      if (tenon::manifest_text(tenon::parse_manifest(once, "again")) != once) std::abort();
    } catch (const tenon::Error&) {
    }
  }
  return 0;
}
