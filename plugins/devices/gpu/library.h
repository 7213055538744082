// A vendor's library that is opened when a device is, so that a machine without it still loads the plugin.
#pragma once

#include <dlfcn.h>

#include <initializer_list>
#include <string>

namespace tenon::gpu {

class Library {
 public:
  // The first of the names that opens; it stays mapped until exit.
  explicit Library(std::initializer_list<const char*> names) {
    for (const char* name : names)
      if ((handle_ = dlopen(name, RTLD_NOW | RTLD_LOCAL))) return;
    const char* const said = dlerror();
    why_ = said ? said : "not found";
  }
  explicit operator bool() const { return handle_ != nullptr; }
  const std::string& why() const { return why_; }
  template <class F>
  bool find(F& f, const char* name) const {
    f = reinterpret_cast<F>(dlsym(handle_, name));
    return f != nullptr;
  }

 private:
  void* handle_ = nullptr;
  std::string why_;
};

}  // namespace tenon::gpu
