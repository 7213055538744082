// tenon-store: completes manifests and fills a store, for builds and packages.
//
//   tenon-store seal FOLDER…                     fills in each manifest.json from the objects beside it
//   tenon-store install --store STORE FOLDER…    installs plugins, replacing any version that is there
#include <cstdio>
#include <string>
#include <string_view>

#include "core/catalog/store.h"
#include "core/current_error.h"
#include "core/plugins/seal.h"

namespace {

constexpr const char* kUsage = "usage: tenon-store seal FOLDER…\n       tenon-store install --store STORE FOLDER…\n";

int install(int argc, char** argv) {
  if (argc < 3 || std::string_view(argv[0]) != "--store") {
    std::fputs(kUsage, stderr);
    return 2;
  }
  tenon::Store store(argv[1]);
  for (int i = 2; i < argc; ++i) {
    const tenon::InstallReport report = store.install(argv[i], {.allow_older = true});
    for (const std::string& note : report.notes) std::fprintf(stderr, "%s\n", note.c_str());
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view verb = argc > 1 ? argv[1] : "";
  try {
    if (verb == "install") return install(argc - 2, argv + 2);
    if (verb == "seal" && argc > 2) {
      for (int i = 2; i < argc; ++i) tenon::seal(argv[i]);
      return 0;
    }
    std::fputs(kUsage, stderr);
    return 2;
  } catch (...) {
    std::fprintf(stderr, "tenon-store: %s\n", tenon::current_error().what());
  }
  return 1;
}
