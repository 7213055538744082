#include "core/plugins/locations.h"

#include <pwd.h>
#include <sys/auxv.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <initializer_list>

#include "core/error.h"
#include "core/files/bytes.h"

namespace tenon {
namespace {

namespace fs = std::filesystem;

fs::path resolved_folder(const fs::path& file) {
  std::error_code error;
  const fs::path real = fs::canonical(file, error);
  return (error ? fs::absolute(file, error) : real).parent_path();
}

fs::path program_folder() {
  return resolved_folder("/proc/self/exe");
}

// An absolute path from the environment; what is relative would depend on the current folder and counts as unset, as
// the XDG specification asks.
fs::path from_environment(const char* name) {
  const char* const value = std::getenv(name);
  return value && value[0] == '/' ? fs::path(value) : fs::path();
}

// $VARIABLE/tenon, else HOME/`usual`/tenon, else "".
fs::path below_home(const char* variable, const char* usual) {
  if (const fs::path base = from_environment(variable); !base.empty()) return base / "tenon";
  if (const fs::path home = from_environment("HOME"); !home.empty()) return home / usual / "tenon";
  const passwd* const user = getpwuid(getuid());
  return user && user->pw_dir && user->pw_dir[0] == '/' ? fs::path(user->pw_dir) / usual / "tenon" : fs::path();
}

}  // namespace

std::string own_folder() {
  // The dynamic loader knows a library by the name that it was asked for, which may be relative to a folder of the
  // past; the kernel knows the file.
  const auto here = reinterpret_cast<uintptr_t>(&own_folder);
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    uintptr_t begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR, &begin, &end) != 2 || here < begin || here >= end) continue;
    if (const size_t path = line.find('/'); path != std::string::npos) return resolved_folder(line.substr(path));
  }
  return program_folder();
}

std::string probe_program() {
  constexpr const char* kName = "tenon-probe";
  for (const fs::path& folder : {fs::path(own_folder()), program_folder()}) {
    for (const fs::path& candidate : {folder / kName, folder / "../libexec/tenon" / kName, folder / "../bin" / kName}) {
      if (access(candidate.c_str(), X_OK) == 0) return candidate.lexically_normal();
    }
  }
  throw Error(TN_E_NOT_FOUND, "the helper program tenon-probe is neither in " + own_folder() +
                                  " nor in ../libexec/tenon beside it; install Tenon again");
}

std::string bundled_store() {
  const fs::path folder = own_folder();
  std::error_code error;
  const fs::path beside = folder / "tenon";  // of a library: <prefix>/lib/tenon
  if (folder.filename() != "bin" && fs::is_directory(beside, error)) return beside;
  return (folder / "../lib/tenon").lexically_normal();
}

std::string user_config() {
  if (getauxval(AT_SECURE)) return "";
  return below_home("XDG_CONFIG_HOME", ".config");
}

std::string user_store() {
  if (getauxval(AT_SECURE)) return "";
  if (const char* const home = std::getenv("TENON_HOME"); home && *home) {
    if (home[0] == '/') return home;
    throw Error(TN_E_ARGUMENT,
                "the environment variable TENON_HOME is " + quote_name(home) + "; set it to an absolute path");
  }
  return below_home("XDG_DATA_HOME", ".local/share");
}

}  // namespace tenon
