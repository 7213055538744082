// The host's sides of calls by which plugins hand over bytes and plan tensors.
#pragma once

#include <string>
#include <vector>

#include "core/plugins/answer.h"
#include "hosts/trainer/engine/engine.h"
#include "tenon/quantizer.h"

namespace tenon::trainer {

// A sink that appends to `out`, a string or a vector of bytes, which outlives it.
template <class Bytes>
tn_sink append_to(Bytes& out) {
  return {sizeof(tn_sink), 0, &out, [](void* self, const void* data, uint64_t n) -> int32_t {
            return answer([&] {
              const auto* from = static_cast<const typename Bytes::value_type*>(data);
              static_cast<Bytes*>(self)->insert(static_cast<Bytes*>(self)->end(), from, from + n);
            });
          }};
}

// Allocates the components that a codec declares, in their order. The sink lives as long as this.
class ComponentTensors {
 public:
  ComponentTensors(Engine& engine, Category category, std::vector<Tensor>& tensors, std::vector<std::string>* names = nullptr)
      : engine_(engine), category_(category), tensors_(tensors), names_(names) {}
  ComponentTensors(const ComponentTensors&) = delete;
  const tn_component_sink* sink() const { return &sink_; }

 private:
  static int32_t declare(void* self, const tn_component* c) {
    auto& t = *static_cast<ComponentTensors*>(self);
    return answer([&] {
      t.tensors_.push_back(t.engine_.empty(t.category_, c->dtype, c->shape, c->ndim));
      if (t.names_) t.names_->emplace_back(c->name);
    });
  }

  Engine& engine_;
  Category category_;
  std::vector<Tensor>& tensors_;
  std::vector<std::string>* names_;
  tn_component_sink sink_{sizeof(tn_component_sink), 0, this, declare};
};

}  // namespace tenon::trainer
