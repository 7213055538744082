// The gradient of its own weight is a tenth too large.
#include "mixer.h"

namespace {

struct Broken : Mixer {
  using Mixer::Mixer;
  void backward(const MixerPass& p, const tn_tensor& x, const tn_tensor& dy, tn_tensor* dx) const {
    Mixer::backward(p, x, dy, dx);
    if (tn_tensor* g = p.grad(weight)) p.axpby(0.1, *g, 1, *g);
  }
};

}  // namespace

TENON_MIXER(Broken)
