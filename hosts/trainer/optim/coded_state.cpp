#include "hosts/trainer/optim/coded_state.h"

#include <algorithm>

#include "core/error.h"
#include "core/plugins/answer.h"
#include "hosts/trainer/engine/views.h"

namespace tenon::trainer {
namespace {

// Decoded panels of two moments, with their part of weight and gradient, stay in a core's second-level cache; a multiple of every block size.
constexpr int64_t kPanel = 1 << 16;

struct Planned {
  std::string name;
  tn_dtype dtype;
  int64_t total = 0;
};

struct Plan {
  std::vector<Planned>* components;
  std::vector<size_t> of;  // this panel's, in its order
  std::vector<tn_component> declared;
};

int32_t declare(void* self, const tn_component* c) {
  return answer([&] {
    auto& p = *static_cast<Plan*>(self);
    if (c->ndim < 0 || c->ndim > 4) throw Error(TN_E_ARGUMENT, std::string("the codec planned the component ") + c->name + " in " + std::to_string(c->ndim) + " axes; a tensor has at most 4");
    auto found = std::find_if(p.components->begin(), p.components->end(), [&](const Planned& k) { return k.name == c->name; });
    if (found == p.components->end()) found = p.components->insert(found, {c->name, c->dtype});
    if (!(found->dtype == c->dtype)) throw Error(TN_E_STATE, std::string("the codec planned the component ") + c->name + " in another type than for an earlier part of the same state");
    p.of.push_back(static_cast<size_t>(found - p.components->begin()));
    p.declared.push_back(*c);
  });
}

}  // namespace

bool CodedState::takes(const Parameter& parameter, const tn_state_slot& slot) {
  return slot.role == TN_SLOT_VALUE && slot.dtype == kF32 && parameter.value.ndim() >= 2 && slot.ndim >= 1;
}

CodedState::CodedState(Engine& engine, const SiteCodec& codec, const Parameter& parameter, const tn_state_slot& slot, std::vector<Tensor>& tensors,
                       std::vector<std::string>& names)
    : codec_(codec), name_(parameter.name + "." + slot.name), role_(parameter.role), uid_(parameter.uid), block_(parameter.block) {
  shape_.assign(slot.shape, slot.shape + slot.ndim);
  for (int64_t n : shape_) count_ *= n;
  const int64_t n_panels = std::max<int64_t>(1, count_ / kPanel);  // the last takes what remains
  for (int64_t p = 0; p < n_panels; ++p) begin_.push_back(p * kPanel);
  begin_.push_back(count_);

  std::vector<Planned> components;
  for (int64_t p = 0; p < n_panels; ++p) {
    Plan plan{&components, {}, {}};
    const tn_component_sink sink{sizeof(tn_component_sink), 0, &plan, declare};
    const tn_target t = target(p);
    check(codec_.api->plan(codec_.self, &t, &sink), "planning a coded optimizer state");
    std::vector<Part>& parts = parts_.emplace_back();
    for (size_t i = 0; i < plan.of.size(); ++i) {
      const tn_component& c = plan.declared[i];
      Part part{plan.of[i], components[plan.of[i]].total, 1, {}, c.ndim};
      for (int32_t k = 0; k < c.ndim; ++k) part.shape[k] = c.shape[k], part.count *= c.shape[k];
      components[part.tensor].total += part.count;
      parts.push_back(part);
    }
  }
  for (const Planned& c : components) {
    tensors_.push_back(engine.empty(Category::kOptimizerState, c.dtype, {c.total}));
    tensors.push_back(tensors_.back());
    names.push_back(std::string(slot.name) + "." + c.name);
  }
  const Tensor zeros = engine.zeros(Category::kCodec, kF32, {longest()});
  for (int64_t p = 0; p < n_panels; ++p) encode(engine, p, p + 1, zeros.rows(0, begin(p + 1) - begin(p)), {0, uid_, 0});
}

int64_t CodedState::longest() const {
  return count_ - begin(panels() - 1);
}

tn_target CodedState::target(int64_t panel) const {
  return {sizeof(tn_target), TN_SITE_OPTIMIZER_STATE, role_, uid_, block_, 1, kF32, 0, {begin(panel + 1) - begin(panel), 0, 0, 0}, name_.c_str()};
}

std::vector<Tensor> CodedState::components(int64_t panel) const {
  std::vector<Tensor> all;
  for (const Part& p : parts_[static_cast<size_t>(panel)]) all.push_back(tensors_[p.tensor].rows(p.offset, p.offset + p.count).reshaped(p.shape, p.ndim));
  return all;
}

void CodedState::decode(Engine& engine, int64_t first, int64_t last, const Tensor& to) const {
  for (int64_t p = first; p < last; ++p) {
    const tn_target t = target(p);
    const std::vector<Tensor> parts = components(p);
    const Views views(parts);
    const Tensor part = to.rows(begin(p) - begin(first), begin(p + 1) - begin(first));
    tn_estimate e{sizeof(tn_estimate)};
    check(codec_.api->estimate(codec_.self, engine.api(), engine.device(), &t, TN_QUANTIZER_DECODE, t.shape[0], &e), "planning to decode a state");
    engine.with_workspace(e, "decode state", [&](const tn_exec* x) {
      return codec_.api->decode(codec_.self, x, &t, views.data(), 0, t.shape[0], part.ref());
    });
  }
}

void CodedState::encode(Engine& engine, int64_t first, int64_t last, const Tensor& from, const tn_rng& draw) const {
  for (int64_t p = first; p < last; ++p) {
    const tn_target t = target(p);
    const std::vector<Tensor> parts = components(p);
    const Views views(parts);
    const Tensor part = from.rows(begin(p) - begin(first), begin(p + 1) - begin(first));
    tn_estimate e{sizeof(tn_estimate)};
    check(codec_.api->estimate(codec_.self, engine.api(), engine.device(), &t, TN_QUANTIZER_ENCODE, t.shape[0], &e), "planning to code a state");
    const tn_rng rng{draw.seed, draw.uid, draw.stream + 0x9E3779B9u * static_cast<uint32_t>(p)};
    engine.with_workspace(e, "code state", [&](const tn_exec* x) {
      return codec_.api->encode(codec_.self, x, &t, part.ref(), views.data(), &rng);
    });
  }
}

}  // namespace tenon::trainer
