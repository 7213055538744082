// An optimizer plugin with one parameter, and clocks for a machine that others use too.
#pragma once

#include <omp.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "sdk/testing/host.h"
#include "tenon/optimizer.h"

namespace tenon::benchmarks {

// One thread is timed by its CPU clock, which a busy machine does not stretch; several by the wall clock.
inline double now() {
  timespec t;
  clock_gettime(omp_get_max_threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}
template <class Work>
double seconds_of(Work&& work) {
  const double start = now();
  work();
  return now() - start;
}

// The best object of a plugin that this CPU runs, or the one of a level.
inline std::string object_of(const std::string& id, const std::string& level = "x86-64") {
  for (const std::string& path : sdk::testing::plugin_objects())
    if (path.find("/" + id + ".onednn." + level) != std::string::npos) return path;
  return "";
}

class Optimizer {
 public:
  Optimizer(const std::string& object, const std::map<std::string, std::string>& hypers, tn_dtype dtype,
            std::vector<int64_t> shape, uint32_t role, const tn_device_api* api, tn_device* device)
      : weight(dtype, shape),
        grad(dtype, shape),
        workspace_(0),
        plugin_(sdk::testing::load_plugin(host_, object)),
        api_(*static_cast<const tn_optimizer_api*>(plugin_.api)) {
    const sdk::testing::HyperValues values(plugin_, hypers);
    must(api_.create(host_.get(), values.data(), values.size(), &self_));
    tn_param p{};
    p.struct_size = sizeof p, p.repr = TN_REPR_DENSE, p.role = role, p.tied_to = -1, p.dtype = dtype, p.name = "w";
    p.ndim = static_cast<int32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), p.shape);
    const tn_param* list[] = {&p};
    must(api_.bind(self_, list, 1));
    const tn_state_sink sink{sizeof(tn_state_sink), 0, &states_, [](void* self, const tn_state_slot* s) {
                               static_cast<std::vector<sdk::testing::Tensor>*>(self)->emplace_back(
                                   s->dtype, std::vector<int64_t>(s->shape, s->shape + s->ndim));
                               return static_cast<int32_t>(TN_OK);
                             }};
    must(api_.state_layout(self_, 0, &sink));
    estimate.struct_size = sizeof estimate;
    must(api_.estimate(self_, api, device, 0, &estimate));
    workspace_ = sdk::testing::Memory(estimate.workspace_bytes);
    exec_ = {sizeof exec_, 0, api, device, nullptr, workspace_.data(), workspace_.size()};
    for (auto& s : states_) slots_.push_back(s.get());
  }
  ~Optimizer() { api_.destroy(self_); }
  Optimizer(const Optimizer&) = delete;

  void step(int64_t t, uint32_t flags = 0) {
    tn_item item{};
    item.struct_size = sizeof item, item.flags = flags, item.n_states = static_cast<uint32_t>(slots_.size());
    item.param = weight.get(), item.grad = grad.get(), item.states = slots_.data();
    item.t = t, item.lr = 1e-3, item.decay_scale = 1, item.grad_scale = 1, item.rng = {1, 0, static_cast<uint32_t>(t)};
    const tn_item* items[] = {&item};
    must(api_.apply(self_, &exec_, items, 1));
  }
  double metric(const std::string& name) {
    std::map<std::string, double> all;
    tn_step step{};
    tn_advice advice{};
    advice.struct_size = sizeof advice, advice.self = &all;
    advice.metric = [](void* self, const char* key, double value) {
      (*static_cast<std::map<std::string, double>*>(self))[key] = value;
      return static_cast<int32_t>(TN_OK);
    };
    must(api_.finish(self_, &step, &advice));
    return all[name];
  }

  sdk::testing::Tensor weight, grad;
  tn_estimate estimate{};

 private:
  void must(int32_t status) {
    if (status == TN_OK) return;
    std::fprintf(stderr, "%s\n", host_.error.c_str());
    std::exit(1);
  }
  sdk::testing::FakeHost host_;
  sdk::testing::Memory workspace_;
  const tn_plugin& plugin_;
  const tn_optimizer_api& api_;
  tn_optimizer* self_ = nullptr;
  std::vector<sdk::testing::Tensor> states_;
  std::vector<tn_tensor*> slots_;
  tn_exec exec_{};
};

void register_refresh();

}  // namespace tenon::benchmarks
