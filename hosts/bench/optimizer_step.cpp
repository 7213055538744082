#include "core/error.h"
#include "hosts/bench/bench.h"
#include "hosts/trainer/optim/optimizer.h"

namespace tenon::bench {
namespace {

using trainer::kBF16;
using trainer::kF32;
using trainer::Tensor;

// One optimizer over one parameter with a gradient that stays.
class Subject {
 public:
  Subject(const Catalog& catalog, const Setting& setting, trainer::Engine& engine, const std::string& spec,
          tn_dtype dtype, int64_t rows, int64_t columns)
      : engine_(engine), runtime_(catalog, request(setting, spec)) {
    p_.name = "weight", p_.uid = 1, p_.role = TN_ROLE_UP, p_.block = 0, p_.in_axis = 1, p_.trainable = true;
    p_.value = engine.empty(Category::kWeights, dtype, {rows, columns});
    gradient_ = engine.empty(Category::kGradients, dtype, {rows, columns});
    engine.fill_normal(p_.value, 1, {1, 1, 0});
    engine.fill_normal(gradient_, 1, {1, 2, 0});
    start_over();
  }
  void start_over() {
    optimizer_.reset();
    set_.reset();
    p_.states.clear(), p_.state_names.clear(), p_.updates = 0;
    set_ = runtime_.instantiate();
    const trainer::OptimizerMember& member = set_->techniques.optimizers[0];
    drives_ = member.extensions.drive != nullptr;
    optimizer_ = std::make_unique<trainer::Optimizer>(engine_, member.api, member.self, std::vector<trainer::Parameter*>{&p_}, trainer::WeightUpdate::kNearest, 1,
                                                      member.extensions);
  }
  tn_estimate estimate() {
    tn_estimate e{};
    e.struct_size = sizeof e;
    const trainer::OptimizerMember& member = set_->techniques.optimizers[0];
    trainer::check(member.api->estimate(member.self, engine_.api(), engine_.device(), p_.uid, &e),
                   "estimating the optimizer");
    return e;
  }
  void step() {
    const tn_step step{sizeof(tn_step), 1, ++steps_, 0, 0, 1};
    optimizer_->plan(step);
    if (drives_) {  // losses of no model: the update alone
      optimizer_->drive(step, 1e-3, [this] { return 1 + 1e-6 * static_cast<double>(++losses_ % 7); });
      optimizer_->apply_driven(1e-3);
    } else {
      p_.gradient = gradient_;
      if (p_.tapped) {
        p_.tap_x = engine_.empty(Category::kGradients, kF32, {p_.value.dim(1)}), p_.tap_dy = engine_.empty(Category::kGradients, kF32, {p_.value.dim(0)});
        engine_.fill_normal(p_.tap_x, 1, {1, 3, 0}), engine_.fill_normal(p_.tap_dy, 1, {1, 4, 0});
        p_.tap_rows = 1;
      }
      optimizer_->apply_all(1e-3, 1);
    }
    engine_.synchronize();
  }

 private:
  static trainer::MixRequest request(const Setting& setting, const std::string& spec) {
    trainer::MixRequest r;
    r.device = setting.device, r.optimizer = spec;
    return r;
  }
  trainer::Engine& engine_;
  trainer::Runtime runtime_;
  trainer::Parameter p_;
  Tensor gradient_;
  std::unique_ptr<trainer::TechniqueSet> set_;
  std::unique_ptr<trainer::Optimizer> optimizer_;
  int64_t steps_ = 0, losses_ = 0;
  bool drives_ = false;
};

}  // namespace

Figures optimizer_step(const Catalog& catalog, const Setting& setting) {
  trainer::MixRequest plain;
  plain.device = setting.device;
  const trainer::Runtime runtime(catalog, plain);
  const auto engine = runtime.engine(kF32, 0, false);
  const int64_t columns = 4096, rows = (int64_t{1} << (setting.quick ? 18 : 24)) / columns;
  const double n = static_cast<double>(rows * columns);
  const Tensor from = engine->empty(Category::kActivations, kF32, {rows, columns}),
               to = engine->empty(Category::kActivations, kF32, {rows, columns});
  engine->fill_normal(from, 1, {1, 9, 0});
  std::vector<Action> actions{{"copy_gigabytes_per_second", 8 * n, 1e9, [&] {
                                 engine->copy(from, to);
                                 engine->synchronize();
                               }}};
  std::vector<std::unique_ptr<Subject>> subjects;
  const auto installed = [&](const char* id) {
    for (const PluginRow& row : catalog.list({.kind = "optimizer"}))
      if (row.id == id) return true;
    return false;
  };
  const auto add = [&](const char* key, const char* id, tn_dtype dtype, double bytes) {
    if (!installed(id)) return;
    subjects.push_back(std::make_unique<Subject>(catalog, setting, *engine, id, dtype, rows, columns));
    actions.push_back({key, bytes * n, 1e9, [s = subjects.back().get()] { s->step(); }});
  };
  add("adamw_f32_gigabytes_per_second", "adamw", kF32, 28);
  add("adamw_bf16_gigabytes_per_second", "adamw", kBF16, 14);
  add("adamw8_f32_gigabytes_per_second", "adamw8", kF32, 16);
  add("adamw8_bf16_gigabytes_per_second", "adamw8", kBF16, 10);
  if (installed("galore")) {
    const int64_t m = setting.quick ? 256 : 2048, k = setting.quick ? 704 : 5632;
    subjects.push_back(std::make_unique<Subject>(catalog, setting, *engine,
                                                 setting.quick ? "galore:rank=32" : "galore:rank=128", kF32, m, k));
    Subject* const s = subjects.back().get();
    // The first step of a fresh instance finds its basis from nothing, which is the dearest refresh there is.
    actions.push_back({"galore_refresh_seconds", 0, 0, [s] { s->step(); }, [s] { s->start_over(); }});
  }
  return measure(actions, setting.repeat);
}

Figures optimizer_matrix(const Catalog& catalog, const Setting& setting) {
  trainer::MixRequest plain;
  plain.device = setting.device;
  const trainer::Runtime runtime(catalog, plain);
  const auto engine = runtime.engine(kF32, 0, false);
  const int64_t rows = setting.quick ? 256 : 2048, columns = setting.quick ? 704 : 5632, side = setting.quick ? 256 : 1024;
  const double size = 4.0 * static_cast<double>(rows * columns);
  const Tensor from = engine->empty(Category::kActivations, kF32, {rows, columns}),
               to = engine->empty(Category::kActivations, kF32, {rows, columns});
  engine->fill_normal(from, 1, {1, 9, 0});
  const Tensor a = engine->empty(Category::kActivations, kF32, {side, side}),
               b = engine->empty(Category::kActivations, kF32, {side, side}),
               c = engine->empty(Category::kActivations, kF32, {side, side});
  engine->fill_normal(a, 1, {1, 1, 0}), engine->fill_normal(b, 1, {1, 2, 0});
  Subject subject(catalog, setting, *engine, setting.optimizer, kF32, rows, columns);
  const tn_estimate e = subject.estimate();
  const double begin = now();
  subject.step();
  const double first = now() - begin, n = static_cast<double>(side);
  Figures out = measure({{"step_seconds", 0, 0, [&] { subject.step(); }},
                         {"copy_gigabytes_per_second", 2 * size, 1e9,
                          [&] {
                            engine->copy(from, to);
                            engine->synchronize();
                          }},
                         {"gemm_gigaflops", 2 * n * n * n, 1e9,
                          [&] {
                            engine->gemm(a, b, c);
                            engine->synchronize();
                          }}},
                        setting.repeat);
  const double bound = e.flops / (out[2].value * 1e9) + e.bytes_moved / (out[1].value * 1e9);
  out.push_back({"first_step_seconds", first});
  out.push_back({"operations", e.flops});
  out.push_back({"bytes_moved", e.bytes_moved});
  out.push_back({"state_bytes", static_cast<double>(e.state_bytes)});
  out.push_back({"workspace_bytes", static_cast<double>(e.workspace_bytes)});
  out.push_back({"bound_seconds", bound});
  out.push_back({"times_the_bound", out[0].value / bound});
  return out;
}

}  // namespace tenon::bench
