#include "hosts/trainer/model/parameter.h"

namespace tenon::trainer {

void Displacer::read(Engine& engine, uint32_t uid, const Tensor& value, int64_t begin, const Tensor& out) const {
  const int64_t n = out.count();
  engine.with_workspace(0, "perturb", [&](const tn_exec* exec) {
    const Tensor flat = out.reshaped({n});
    return api->perturb(self, exec, uid, value.ref(), at, begin, begin + n, flat.ref());
  });
}

Tensor Parameter::seen(Engine& engine) const {
  if (!displaced) return value;
  const Tensor copy = engine.empty(Category::kWorkspace, value.dtype(), value.shape(), value.ndim());
  displaced->read(engine, uid, value, 0, copy);
  return copy;
}

double Parameter::open_gradient(Engine& engine) {
  if (gradient) return 1;
  gradient = engine.empty(gradient_category, gradient_dtype, value.shape(), value.ndim());
  return 0;
}

const Tensor& Parameter::open_zeroed_gradient(Engine& engine) {
  if (open_gradient(engine) == 0) engine.zero(gradient);
  return gradient;
}

}  // namespace tenon::trainer
