#include "hosts/conformance/pass.h"

#include <algorithm>

#include "hosts/conformance/numbers.h"
#include "sdk/dtype.h"

namespace tenon::conformance {
namespace {

constexpr int64_t kMostElements = int64_t{1} << 26;  // more than any small model of the battery needs

bool possible(int32_t ndim, const int64_t* shape, int64_t least) {
  int64_t count = 1;
  for (int32_t i = 0; i < ndim; ++i) {
    if (shape[i] < least || shape[i] > kMostElements) return false;
    count *= std::max<int64_t>(shape[i], 1);
    if (count > kMostElements) return false;
  }
  return true;
}

}  // namespace

std::string Parameters::declare(uint32_t id, const char* key, int32_t ndim, const int64_t* shape, bool trains) {
  if (id != all_.size()) return "its parameter ids are not dense from 0";
  if (!key || !*key) return "a parameter has no key";
  const std::string name = key;
  if (std::any_of(all_.begin(), all_.end(), [&](const Parameter& p) { return p.key == name; })) return "two parameters have the key " + name;
  if (ndim < 1 || ndim > 2 || !possible(ndim, shape, 1)) return "parameter " + name + " has an impossible shape";
  const std::vector<int64_t> extents(shape, shape + ndim);
  Parameter& p = all_.emplace_back(Parameter{name, trains, std::make_unique<Tensor>(bench_, "parameter " + name, sdk::kF32, extents),
                                             std::make_unique<Tensor>(bench_, "the gradient of " + name, sdk::kF32, extents)});
  p.value->fill(0xFF), p.grad->fill(0);
  pointers_.push_back(&views_.emplace_back(tn_param_view{TN_SIZE_TO(tn_param_view, grad), id, p.value->get(), trains ? p.grad->get() : nullptr}));
  return {};
}

void Parameters::displace(double size, uint32_t stream) {
  for (Parameter& p : all_)
    if (p.trains) p.value->set(plus(p.value->floats(), size, normals(p.value->count(), stream++)));
}

tn_tensor* Loans::lend(Bench& bench, int32_t ndim, const int64_t* shape, const tn_dtype& dtype, bool planned, uint8_t poison) {
  if (ndim < 0 || !possible(ndim, shape, 0)) return nullptr;
  Loan& l = all_.emplace_back();
  l.shape.assign(shape, shape + ndim), l.strides.assign(static_cast<size_t>(ndim), 1);
  for (size_t i = l.shape.size(); i-- > 1;) l.strides[i - 1] = l.strides[i] * l.shape[i];
  l.view = {nullptr, bench.id, ndim, dtype, l.shape.data(), l.strides.data(), 0};
  if (!planned) {
    l.memory = std::make_unique<Tensor>(bench, "a tensor of the pass", dtype, l.shape);
    l.memory->fill(poison);
    l.view.data = l.memory->data();
  }
  return &l.view;
}

bool Loans::take_back(const tn_tensor* tensor) {
  return all_.remove_if([&](const Loan& l) { return &l.view == tensor; }) > 0;
}

}  // namespace tenon::conformance
