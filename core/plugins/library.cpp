#include "core/plugins/library.h"

#define BOOST_DLL_USE_STD_FS
#include <boost/dll/shared_library.hpp>
#include <map>
#include <mutex>

#include "core/error.h"
#include "core/plugins/elf.h"
#include "core/plugins/host.h"
#include "core/plugins/kinds.h"
#include "core/sentence.h"

namespace tenon {

struct LoadedPlugin::State {
  std::string path;
  const tn_plugin* descriptor;
  Schema schema;
  bool initialised = false;

  ~State() {
    if (initialised && descriptor->deinit) descriptor->deinit();
  }
};

namespace {

// The dynamic loader's own words, out of what Boost.DLL wraps around them.
std::string loader_words(std::string_view what, std::string_view path) {
  constexpr std::string_view kMark = "dlerror system message: ";
  if (const size_t at = what.find(kMark); at != std::string_view::npos) what.remove_prefix(at + kMark.size());
  if (const size_t end = what.rfind("): "); end != std::string_view::npos) what = what.substr(0, end);
  if (what.starts_with(path) && what.substr(path.size()).starts_with(": ")) what.remove_prefix(path.size() + 2);
  return clean_sentence(what);
}

// Threads, OpenMP and thread-locals of a plugin may outlive every use of it: it stays mapped until exit.
void keep_mapped(boost::dll::shared_library library) {
  static std::mutex mutex;
  static auto* const kept = new std::map<void*, boost::dll::shared_library>;
  const auto lock = std::lock_guard(mutex);
  kept->try_emplace(library.native(), std::move(library));
}

tn_plugin_entry_fn open_entry(const std::string& path) {
  using boost::dll::load_mode::rtld_local;
  using boost::dll::load_mode::rtld_now;
  boost::dll::shared_library library;
  try {
    library.load(std::filesystem::path(path), rtld_now | rtld_local);
  } catch (const std::exception& e) {
    const std::string words = loader_words(e.what(), path);
    const bool needs_library = words.find("cannot open shared object file") != std::string::npos;
    throw Error(
        needs_library ? TN_E_DEVICE : TN_E_FORMAT,
        path + ": the object cannot be loaded (" + words + "); " +
            (needs_library ? "install the library that it names" : "install a build of the plugin for this system"));
  }
  if (!library.has(TN_PLUGIN_ENTRY_NAME)) {
    throw Error(TN_E_FORMAT,
                path + ": this library does not export " TN_PLUGIN_ENTRY_NAME ", so it is not a Tenon plugin");
  }
  const auto entry = &library.get<std::remove_pointer_t<tn_plugin_entry_fn>>(TN_PLUGIN_ENTRY_NAME);
  keep_mapped(std::move(library));
  return entry;
}

const tn_plugin& negotiate(const std::string& path, tn_plugin_entry_fn entry) {
  const tn_plugin* descriptor = nullptr;
  (void)take_report();
  check(entry(TN_ABI_MAJOR, TN_ABI_MINOR, host(), &descriptor), path + ": the plugin refuses ABI " + abi_text() + " of this host");
  if (!descriptor) throw Error(TN_E_FORMAT, path + ": the plugin accepted ABI " + abi_text() + " but gave no descriptor");
  check_descriptor(path, *descriptor);
  return *descriptor;
}

}  // namespace

LoadedPlugin load_library(const std::string& path) {
  if (const std::string arch = object_arch(path); arch != host_arch()) {
    throw Error(TN_E_DEVICE, path + ": the object was built for " + arch + " but this machine is " + host_arch() +
                                 "; install a build for " + host_arch());
  }
  const std::string absolute = std::filesystem::absolute(path).string();
  const tn_plugin& descriptor = negotiate(absolute, open_entry(absolute));
  auto state = std::make_shared<LoadedPlugin::State>(
      LoadedPlugin::State{absolute, &descriptor, read_schema(absolute, descriptor)});
  if (descriptor.init) check(descriptor.init(host()), absolute + ": the plugin could not be initialised");
  state->initialised = true;
  return LoadedPlugin(std::move(state));
}

const tn_plugin& LoadedPlugin::descriptor() const {
  return *state_->descriptor;
}
const Schema& LoadedPlugin::schema() const {
  return state_->schema;
}
const std::string& LoadedPlugin::path() const {
  return state_->path;
}

const void* LoadedPlugin::table(uint32_t kind) const {
  if (kind != this->kind()) {
    throw Error(TN_E_ARGUMENT, std::string(id()) + " is of the kind " + std::string(kind_name(this->kind())) +
                                   ", but is used as " + std::string(kind_name(kind)));
  }
  return descriptor().api;
}

const void* LoadedPlugin::extension_table(const char* id) const {
  return descriptor().get_extension ? descriptor().get_extension(id) : nullptr;
}

}  // namespace tenon
