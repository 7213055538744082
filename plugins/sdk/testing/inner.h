// org.tenon.inner/1 for tests: opens the objects that were built beside the subject's own, of the same CPU level.
#pragma once

#include <map>
#include <string>

#include "sdk/testing/host.h"
#include "tenon/inner.h"

namespace tenon::sdk::testing {

// ".../lisa/lisa.onednn.x86-64-v4.so" becomes ".../adamw/adamw.onednn.x86-64-v4.so".
inline std::string sibling_object(const std::string& object, const std::string& id) {
  const size_t file = object.rfind('/'), folder = object.rfind('/', file - 1);
  return object.substr(0, folder + 1) + id + "/" + id + object.substr(object.find('.', file));
}

inline int32_t open_inner(const tn_host* host, const char* text, const tn_plugin** plugin, tn_optimizer** self) {
  FakeHost& fake = FakeHost::of(host);
  try {
    const std::string spec = text;
    const size_t colon = std::min(spec.find(':'), spec.size());
    std::map<std::string, std::string> hypers;
    for (size_t at = colon + 1; at < spec.size();) {
      const size_t equals = spec.find('=', at), comma = std::min(spec.find(',', at), spec.size());
      hypers[spec.substr(at, equals - at)] = spec.substr(equals + 1, comma - equals - 1);
      at = comma + 1;
    }
    *plugin = &load_plugin(fake, sibling_object(fake.object, spec.substr(0, colon)));
    const HyperValues values(**plugin, hypers);
    return static_cast<const tn_optimizer_api*>((*plugin)->api)->create(host, values.data(), values.size(), self);
  } catch (const Failure& f) {
    host->error(host, f.status, f.sentence.c_str());
    return f.status;
  }
}

inline const tn_inner* inner_table() {
  static constexpr tn_inner kTable = {TN_SIZE_TO(tn_inner, open), 0, open_inner};
  return &kTable;
}

}  // namespace tenon::sdk::testing
