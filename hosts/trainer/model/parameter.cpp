#include "hosts/trainer/model/parameter.h"

namespace tenon::trainer {

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
