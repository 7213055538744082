// The plugin under test, loaded in this process together with the device that it runs on.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/plugins/host.h"
#include "core/plugins/inner.h"
#include "core/plugins/library.h"
#include "core/plugins/spec.h"
#include "hosts/conformance/conformance.h"
#include "hosts/conformance/inner.h"
#include "hosts/conformance/memory.h"

namespace tenon::conformance {

class Subject {
 public:
  // Loads and negotiates; throws tenon::Error.
  explicit Subject(const Target& target);
  ~Subject();
  Subject(const Subject&) = delete;

  const LoadedPlugin& plugin() const { return plugin_; }
  const std::string& object() const { return plugin_.path(); }
  template <class Api>
  const Api& api() const {
    return plugin_.api<Api>();
  }
  // The device that techniques run on; for a device plugin, its own first device. Opened at the first use. A machine
  // without the device makes the check not applicable.
  Bench& bench();

  // Defaults, with these values as a user writes them; throws tenon::Error for a value that is not legal.
  Spec spec(const std::map<std::string, std::string>& values = {}) const;

  // Legal settings worth trying one at a time: each bound, each choice, both truths; the defaults first.
  std::vector<std::map<std::string, std::string>> variants(bool numbers) const;
  // Each choice and both truths, and dropout where there is one, since it is what a replay gets wrong.
  std::vector<std::map<std::string, std::string>> variants_and_dropout() const;

 private:
  InnerScope inner_{open_plain_inner};  // for instances made on this thread
  LoadedPlugin plugin_;
  std::string device_object_;
  std::unique_ptr<LoadedPlugin> device_plugin_;
  std::unique_ptr<Bench> bench_;
};

// "rank=1, scale=0.25", or "the defaults".
std::string words(const std::map<std::string, std::string>& values);

// An instance of a technique made from a spec; destroyed with this.
template <class Api, class Handle>
class Instance {
 public:
  template <class... More>
  Instance(const Api& api, const Spec& spec, int32_t& status, More... more) : api_(&api) {
    const HyperArray hypers(spec);
    status = api.create(host(), hypers.data(), hypers.size(), more..., &self_);
    if (status < 0) self_ = nullptr;
  }
  ~Instance() {
    if (self_) api_->destroy(self_);
  }
  Instance(const Instance&) = delete;
  Handle* get() const { return self_; }

 private:
  const Api* api_;
  Handle* self_ = nullptr;
};

}  // namespace tenon::conformance
