#include "hosts/trainer/optim/host_updates.h"

namespace tenon::trainer {

HostUpdates::HostUpdates(Engine& device, Engine& host, const std::vector<Parameter*>& params) : device_(device), host_(host), params_(params) {
  for (Parameter* p : params_) p->host_value = host_.empty(Category::kOptimizerState, p->value.dtype(), p->value.shape(), p->value.ndim());
  values_came();
}

void HostUpdates::take_gradient(Parameter& p) {
  if (!p.gradient) return;
  const Tensor& from = p.gradient;
  const bool first = !p.host_gradient;
  const Tensor landed = host_.empty(Category::kGradients, from.dtype(), from.shape(), from.ndim());
  device_.download(from, landed.data());
  if (first)
    p.host_gradient = landed;
  else
    host_.axpby(1, landed, 1, p.host_gradient);
  p.gradient = Tensor();
}

void HostUpdates::give_value(const Parameter& p) { device_.upload(p.host_value.data(), p.value); }

void HostUpdates::values_came() {
  for (Parameter* p : params_) device_.download(p->value, p->host_value.data());
}

}  // namespace tenon::trainer
