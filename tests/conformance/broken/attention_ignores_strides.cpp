// Takes every tensor for a dense one.
#define TENON_SKELETON "hosts/cli/templates/attention.cpp"
#include <array>

#include "skeleton.h"

namespace {

struct Broken : Kernel {
  using Kernel::Kernel;
  void forward(const tn_attention_call& call, const tn_attention_shape& shape, const tn_port_bind* const* binds,
               uint64_t n) const {
    std::vector<tn_tensor> tensors(n);
    std::vector<tn_port_bind> dense(n);
    std::vector<std::array<int64_t, 4>> strides(n);
    std::vector<const tn_port_bind*> list;
    for (uint64_t i = 0; i < n; ++i) {
      dense[i] = *binds[i];
      if (binds[i]->tensor) {
        tensors[i] = *binds[i]->tensor;
        for (int64_t k = tensors[i].ndim - 1, step = 1; k >= 0; step *= tensors[i].shape[k--]) strides[i][k] = step;
        tensors[i].strides = strides[i].data(), dense[i].tensor = &tensors[i];
      }
      list.push_back(&dense[i]);
    }
    Kernel::forward(call, shape, list.data(), n);
  }
};

constexpr tn_attention_api kTable = attention_api<Broken>();

}  // namespace

TENON_EXHIBIT(TN_KIND_ATTENTION, kNoHypers, 0, kTable)
