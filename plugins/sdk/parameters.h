// The parameters that an optimizer is bound to, and what every rule does with them.
#pragma once

#include <algorithm>
#include <vector>

#include "sdk/plugin.h"
#include "sdk/tensor.h"
#include "tenon/optimizer.h"

namespace tenon::sdk {

inline std::string text_of(tn_dtype d) {
  const char* kind = d.code == TN_BFLOAT  ? "bf"
                     : d.code == TN_FLOAT ? "f"
                     : d.code == TN_UINT  ? "u"
                     : d.code == TN_INT   ? "i"
                                          : "type ";
  return kind + std::to_string(d.bits);
}

// f32 and bf16 on this object's device, or the reason why not.
inline void supports_dense(const char* technique, const tn_query& q) {
  require_own_device(technique, q);
  if (!same(q.dtype, kF32) && !same(q.dtype, kBF16))
    fail(TN_E_UNSUPPORTED, std::string(technique) + " updates f32 and bf16 parameters, not " + text_of(q.dtype) +
                               "; train an adapter over quantized weights");
}

// The seven linear weights of a transformer block.
inline bool is_block_linear(const tn_param& p) {
  return p.ndim == 2 && p.role >= TN_ROLE_Q && p.role <= TN_ROLE_DOWN;
}
// Every matrix that stands between embedding and head, those of adapters too.
inline bool is_hidden_matrix(const tn_param& p) {
  return is_block_linear(p) || (p.ndim == 2 && (p.role == TN_ROLE_ADAPTER || p.role == TN_ROLE_OTHER));
}

class Parameters {
 public:
  struct Entry {
    tn_param info;
    int64_t n;  // elements
  };

  void bind(const char* technique, const tn_param* const* params, uint64_t n) {
    entries_.clear();
    for (uint64_t i = 0; i < n; ++i) {
      const tn_param& p = *params[i];
      const std::string name = std::string(technique) + ": " + (p.name && *p.name ? p.name : "a parameter");
      if (p.repr == TN_REPR_QUANTIZED)
        fail(TN_E_UNSUPPORTED,
             name + " is quantized; freeze it and train an adapter over it, or load the model without a quantizer");
      if (!same(p.dtype, kF32) && !same(p.dtype, kBF16))
        fail(TN_E_UNSUPPORTED, name + " is " + text_of(p.dtype) + "; f32 and bf16 can be updated");
      if (p.ndim < 0 || p.ndim > 4)
        fail(TN_E_ARGUMENT, name + " has " + std::to_string(p.ndim) + " axes; at most 4 are possible");
      Entry e{p, 1};
      e.info.name = nullptr;  // valid during bind only
      for (int32_t k = 0; k < p.ndim; ++k)
        if (p.shape[k] < 0 || __builtin_mul_overflow(e.n, p.shape[k], &e.n))
          fail(TN_E_ARGUMENT, name + " has an impossible shape");
      entries_.push_back(e);
    }
    // A host numbers its parameters as it likes: uids are neither small nor dense.
    std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) { return a.info.uid < b.info.uid; });
    for (size_t i = 1; i < entries_.size(); ++i)
      if (entries_[i].info.uid == entries_[i - 1].info.uid)
        fail(TN_E_ARGUMENT,
             std::string(technique) + ": two parameters have the uid " + std::to_string(entries_[i].info.uid));
  }
  const Entry& at(uint32_t uid) const {
    const auto found = std::lower_bound(entries_.begin(), entries_.end(), uid,
                                        [](const Entry& e, uint32_t wanted) { return e.info.uid < wanted; });
    if (found == entries_.end() || found->info.uid != uid)
      fail(TN_E_NOT_FOUND, "no parameter with uid " + std::to_string(uid) + " is bound");
    return *found;
  }
  // What apply() may rely on.
  const Entry& check(const tn_item& item) const {
    const Entry& e = at(item.uid);
    if (item.t < 1) fail(TN_E_ARGUMENT, "updates are counted from 1, an item came with t = " + std::to_string(item.t));
    if (!item.param || count(*item.param) != e.n)
      fail(TN_E_ARGUMENT, "an item's parameter differs in size from the bound one");
    return e;
  }

 private:
  std::vector<Entry> entries_;  // in the order of uids
};

// Declares a state slot of this shape.
inline void declare_slot(const tn_state_sink& sink, const char* name, uint32_t role, tn_dtype dtype, int32_t ndim,
                         const int64_t* shape) {
  tn_state_slot slot{};
  slot.struct_size = TN_SIZE_TO(tn_state_slot, name);
  slot.role = role;
  slot.ndim = ndim;
  slot.dtype = dtype;
  for (int32_t i = 0; i < ndim; ++i) slot.shape[i] = shape[i];
  slot.name = name;
  check(sink.declare(sink.self, &slot));
}
inline void declare_like(const tn_state_sink& sink, const char* name, tn_dtype dtype, const tn_param& p) {
  declare_slot(sink, name, TN_SLOT_VALUE, dtype, p.ndim, p.shape);
}

}  // namespace tenon::sdk
