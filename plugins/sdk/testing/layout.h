// The tensors of one weight in an external layout (org.tenon.layout/1), by suffix.
#pragma once

#include <map>
#include <string>

#include "sdk/testing/codec.h"

namespace tenon::sdk::testing {

struct External {
  std::map<std::string, Tensor> tensors;
  static int32_t put(void* self, const char* suffix, const tn_tensor* t) {
    static_cast<External*>(self)->set(suffix, t->dtype, std::vector<int64_t>(t->shape, t->shape + t->ndim), data<uint8_t>(*t));
    return TN_OK;
  }
  static const tn_tensor* get(void* self, const char* suffix) {
    auto& tensors = static_cast<External*>(self)->tensors;
    const auto it = tensors.find(suffix);
    return it == tensors.end() ? nullptr : it->second.get();
  }
  void set(const std::string& suffix, tn_dtype dtype, std::vector<int64_t> shape, const void* bytes) {
    Tensor t(dtype, std::move(shape));
    std::memcpy(t.as<uint8_t>(), bytes, t.bytes());
    tensors.insert_or_assign(suffix, std::move(t));
  }
  void set_text(const std::string& suffix, const std::string& text) { set(suffix, kU8, {static_cast<int64_t>(text.size())}, text.data()); }
  Tensor& at(const std::string& suffix) { return tensors.at(suffix); }
};

inline const tn_layout& layout_of(TestCodec& codec) { return *static_cast<const tn_layout*>(codec.plugin.get_extension(TN_EXT_LAYOUT)); }

}  // namespace tenon::sdk::testing
