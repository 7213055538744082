#include "hosts/trainer/run/adapter_steps.h"

#include <algorithm>
#include <list>

#include "core/error.h"
#include "hosts/trainer/engine/sinks.h"

namespace tenon::trainer {
namespace {

constexpr uint32_t kGrowStream = 0x47524F57;

struct Growth {
  Engine* engine;
  Adapter* adapter;
  std::vector<Parameter*> grown;
  std::list<std::pair<Tensor, Tensor::Ref>> refs;  // a reference points to the shape of its tensor

  static int32_t grow(void* self, uint32_t param, int32_t axis, int64_t extent, tn_tensor** value) {
    auto& g = *static_cast<Growth*>(self);
    return answer([&] {
      if (param >= g.adapter->parameters.size())
        throw Error(TN_E_ARGUMENT, "adapter " + g.adapter->name + " grew a parameter that it has not declared");
      Parameter& p = *g.adapter->parameters[param];
      const Tensor old = p.value;
      if (axis < 0 || axis >= old.ndim() || old.ndim() > 2 || extent < old.dim(axis))
        throw Error(TN_E_ARGUMENT, "adapter " + g.adapter->name + " asked for a shape of " + p.name + " that it cannot grow to");
      int64_t shape[2] = {old.dim(0), old.ndim() == 2 ? old.dim(1) : 1};
      shape[axis] = extent;
      const Tensor now = g.engine->empty(Category::kAdapter, old.dtype(), shape, old.ndim());
      g.engine->zero(now);
      if (old.count() > 0) {
        const Tensor front = axis == 0 ? now.rows(0, old.dim(0)) : now.columns(0, old.dim(1));
        g.engine->axpby(1, old, 0, front);
      }
      p.value = now;
      if (std::find(g.grown.begin(), g.grown.end(), &p) == g.grown.end()) g.grown.push_back(&p);
      auto& [held, ref] = g.refs.emplace_back(now, Tensor::Ref{});
      ref = held.ref();
      if (value) *value = g.engine->dry() ? nullptr : &ref.t;
    });
  }
  tn_grow_sink sink() { return {sizeof(tn_grow_sink), 0, this, grow}; }
};

}  // namespace

std::vector<Parameter*> end_step(Engine& engine, Adapter& adapter, int64_t step, int64_t total_steps, uint64_t seed) {
  Growth growth{&engine, &adapter, {}, {}};
  std::list<Tensor::Ref> refs;
  std::list<tn_param_view> views;
  std::vector<const tn_param_view*> pointers;
  for (uint32_t id = 0; id < adapter.parameters.size(); ++id) {
    tn_tensor* value = &refs.emplace_back(adapter.parameters[id]->value.ref()).t;
    pointers.push_back(&views.emplace_back(tn_param_view{sizeof(tn_param_view), id, value, nullptr}));
  }
  const tn_rng rng{seed, adapter.index, kGrowStream ^ static_cast<uint32_t>(step)};
  const tn_grow_sink sink = growth.sink();
  engine.with_workspace(0, "adapter step", [&](const tn_exec* exec) {
    return adapter.steps->step_end(adapter.self, exec, step, total_steps, pointers.data(), pointers.size(), &rng, &sink);
  });
  return growth.grown;
}

void grow_to_largest(Engine& engine, Adapter& adapter) {
  Growth growth{&engine, &adapter, {}, {}};
  const tn_grow_sink sink = growth.sink();
  check(adapter.steps->largest(adapter.self, &sink), "planning an adapter that grows");
}

std::vector<std::byte> save_steps(const Adapter& adapter) {
  std::vector<std::byte> bytes;
  const tn_sink sink = append_to(bytes);
  check(adapter.steps->save(adapter.self, &sink), "saving an adapter's state");
  return bytes;
}

std::vector<Parameter*> load_steps(Engine& engine, Adapter& adapter, const std::vector<std::byte>& bytes) {
  Growth growth{&engine, &adapter, {}, {}};
  const tn_grow_sink sink = growth.sink();
  check(adapter.steps->load(adapter.self, bytes.data(), bytes.size(), &sink), "restoring an adapter's state");
  return growth.grown;
}

}  // namespace tenon::trainer
