// Gives a tensor of the pass back twice.
#include "region.h"

namespace {

struct Broken : Stack {
  using Stack::Stack;
  void run_backward(const Region& r, const tn_tensor& dy, tn_tensor* dx) const {
    Stack::run_backward(r, dy, dx);
    tn_tensor* spare = r.alloc(r.hidden());
    tn_tensor* again = spare;
    r.free(spare), r.free(again);
  }
};

}  // namespace

TENON_STACK(Broken)
