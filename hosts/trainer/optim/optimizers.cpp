#include "hosts/trainer/optim/optimizers.h"

#include "core/error.h"

namespace tenon::trainer {

Optimizers::Optimizers(Engine& engine, const std::vector<OptimizerMember>& members, std::vector<Parameter*> params, WeightUpdate update,
                       uint64_t seed, HostUpdates* host_updates, const SiteCodec* states)
    : params_(std::move(params)) {
  std::vector<Selector> selectors;
  for (const OptimizerMember& m : members) selectors.push_back(m.selector);
  std::vector<ParameterTraits> all;
  for (const Parameter* p : params_) all.push_back(traits(*p));
  const std::vector<size_t> to = route(selectors, all);
  std::map<std::string, int> seen;
  for (size_t i = 0; i < members.size(); ++i) {
    std::vector<Parameter*> own;
    for (size_t k = 0; k < params_.size(); ++k)
      if (to[k] == i) own.push_back(params_[k]), part_of_[params_[k]->uid] = i;
    const int nth = ++seen[members[i].label];
    Part part{std::make_unique<Optimizer>(engine, members[i].api, members[i].self, std::move(own), update, seed, members[i].extensions, host_updates, states), members[i].lr, {}};
    if (members[i].extensions.drive && members.size() > 1)
      throw Error(TN_E_CONFLICT, members[i].label + " decides what a step computes, so it takes every parameter; name it alone in --optimizer");
    if (members.size() > 1) part.prefix = members[i].label + (nth > 1 ? std::to_string(nth) : "") + ".";
    parts_.push_back(std::move(part));
  }
}

void Optimizers::rebind(const std::vector<Parameter*>& grown) {
  for (size_t i = 0; i < parts_.size(); ++i) {
    std::vector<Parameter*> of_part;
    for (Parameter* p : grown)
      if (const auto found = part_of_.find(p->uid); found != part_of_.end() && found->second == i) of_part.push_back(p);
    parts_[i].optimizer->rebind(of_part);
  }
}

bool Optimizers::plan(const tn_step& step) {
  bool changed = false;
  for (const Part& p : parts_) changed = p.optimizer->plan(step) || changed;
  return changed;
}

void Optimizers::apply_one(Parameter& p, Rate rate, double grad_scale) {
  const Part& part = parts_[part_of_.at(p.uid)];
  part.optimizer->apply_one(p, part.rate(rate), grad_scale);
}

void Optimizers::apply_all(Rate rate, double grad_scale) {
  for (const Part& p : parts_) p.optimizer->apply_all(p.rate(rate), grad_scale);
}

Advice Optimizers::finish(const tn_step& step, std::optional<double> loss) {
  Advice all;
  for (const Part& p : parts_) {
    const Advice one = p.optimizer->finish(step, loss);
    for (const auto& [name, value] : one.metrics) all.metrics[p.prefix + name] = value;
    all.degraded = all.degraded || one.degraded;
    all.batch_multiplier *= one.batch_multiplier;
  }
  return all;
}

void Optimizers::drop_gradients() {
  for (const Part& p : parts_) p.optimizer->drop_gradients();
}

std::vector<std::vector<std::byte>> Optimizers::save_small_states() const {
  std::vector<std::vector<std::byte>> blobs;
  for (const Part& p : parts_) blobs.push_back(p.optimizer->save_small_state());
  return blobs;
}

void Optimizers::load_small_states(const std::vector<std::vector<std::byte>>& blobs, const std::function<bool(uint32_t uid)>& has_master) {
  if (blobs.size() != parts_.size())
    throw Error(TN_E_FORMAT, "the checkpoint holds the state of " + std::to_string(blobs.size()) + " optimizers where this run has " +
                                 std::to_string(parts_.size()) + "; resume with the same --optimizer");
  for (size_t i = 0; i < blobs.size(); ++i) parts_[i].optimizer->load_small_state(blobs[i], has_master);
}

}  // namespace tenon::trainer
