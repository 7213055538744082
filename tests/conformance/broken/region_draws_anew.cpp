// Its backward drops other elements than its forward did.
#include "region.h"

namespace {

struct Broken : Stack {
  using Stack::Stack;
  void run_backward(const Region& r, const tn_tensor& dy, tn_tensor* dx) const {
    Stack::run_backward(r, dy, dx);
    if (dx) drop(r, 0, *dx), drop(r, 1, *dx);
  }
};

}  // namespace

TENON_STACK(Broken)
