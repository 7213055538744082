// What a technique leaves in a forward call for its backward.
#pragma once

#include <list>
#include <map>

#include "core/plugins/answer.h"
#include "hosts/trainer/model/linear.h"

namespace tenon::trainer {

// tn_saver over the slots of one call. A slot kept by keep_input is the linear's own x, which the block keeps or recomputes.
struct Saver {
  Engine* engine;
  std::map<uint32_t, Tensor>* slots;  // null: nothing may be saved
  const Tensor* input;                // in backward: x
  const RowSample* sample = nullptr;  // in backward: what stands for x
  struct Loaned {
    Tensor tensor;
    Tensor::Ref ref, index;
    tn_saved saved;
  };
  std::list<Loaned> loans;  // addresses handed out stay valid for the call

  Loaned& loan(const Tensor& t) {
    loans.push_back({t, {}, {}, {}});
    Loaned& l = loans.back();
    l.ref = l.tensor.ref();
    l.saved = {sizeof(tn_saved), 0, &l.ref.t, nullptr, nullptr};
    return l;
  }

  static int32_t keep_input(void* self, uint32_t slot) {
    auto& s = *static_cast<Saver*>(self);
    return answer([&] {
      if (s.slots) (*s.slots)[slot] = Tensor();
    });
  }
  static int32_t alloc(void* self, uint32_t slot, int32_t ndim, const int64_t* shape, const tn_dtype* dtype, tn_tensor** out) {
    auto& s = *static_cast<Saver*>(self);
    if (!s.slots) return TN_E_STATE;
    return answer([&] {
      Tensor t = s.engine->empty(Category::kActivations, *dtype, shape, ndim);
      (*s.slots)[slot] = t;
      *out = &s.loan(t).ref.t;
    });
  }
  static int32_t get(void* self, uint32_t slot, const tn_saved** out) {
    auto& s = *static_cast<Saver*>(self);
    if (!s.slots) return TN_E_STATE;
    const auto it = s.slots->find(slot);
    if (it == s.slots->end()) return TN_E_NOT_FOUND;
    return answer([&] {
      Loaned& l = s.loan(it->second ? it->second : s.sample ? s.sample->rows : *s.input);
      if (!it->second && s.sample && s.sample->index) l.index = s.sample->index.ref(), l.saved.row_index = &l.index.t;
      *out = &l.saved;
    });
  }
  tn_saver table() { return {sizeof(tn_saver), 0, this, keep_input, alloc, get}; }
};

}  // namespace tenon::trainer
