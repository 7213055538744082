// Writes to what a block keeps for backward.
#include "region.h"

namespace {

struct Broken : Stack {
  using Stack::Stack;
  void run_forward(const Region& r, const tn_tensor& x, tn_tensor& y) {
    tn_tensor* h = r.alloc(r.hidden());
    r.axpby(1, x, 0, *h);
    tn_tensor* next = r.block(0, TN_BLOCK_WHOLE, *h, r.saves() ? &tokens[0] : nullptr);
    r.axpby(1, *next, 0, *h);
    for (uint32_t b = 1; b < tokens.size(); ++b) next = r.block(b, TN_BLOCK_WHOLE, *next, r.saves() ? &tokens[b] : nullptr);
    last = next, rstd = r.norm(*next, &r.value(gain), y);
  }
};

}  // namespace

TENON_STACK(Broken)
