// Checks of optimizers.
#include <cmath>

#include "core/error.h"
#include "hosts/conformance/attempts.h"
#include "hosts/conformance/check.h"
#include "hosts/conformance/optimizer_run.h"
#include "sdk/dtype.h"
#include "tenon/linear_wgrad.h"

namespace tenon::conformance {
namespace {

using Order = OptimizerStep::Order;
using Forms = std::vector<ParameterForm>;

constexpr uint32_t kRole[] = {TN_ROLE_NORM, TN_ROLE_BIAS, TN_ROLE_Q, TN_ROLE_DOWN, TN_ROLE_EMBEDDING};

Forms usual(tn_dtype dtype = sdk::kF32, bool master = false) {
  return {{{1}, TN_ROLE_BIAS, dtype, master},
          {{7}, TN_ROLE_NORM, dtype, master},
          {{33, 130}, TN_ROLE_Q, dtype, master},
          {{64, 48}, TN_ROLE_DOWN, dtype, master}};
}

void steps(OptimizerRun& run, int n, const OptimizerStep& options = {}) {
  for (int i = 0; i < n; ++i) run.step(options);
}

// The bits after five steps.
std::vector<std::vector<uint8_t>> after(Subject& s, const OptimizerStep& options, const Spec& spec, bool longer = false,
                                        const Forms& forms = usual()) {
  OptimizerRun run(s, spec, forms, longer);
  steps(run, 5, options);
  return run.bits();
}

// Settings that are accepted for the usual parameters.
std::vector<std::pair<std::string, Spec>> settings(Subject& s) {
  std::string refusal;
  auto out = accepted_settings(s, s.variants(false), refusal, [&](const Spec& spec) { OptimizerRun(s, spec, usual()); });
  expect(!out.empty(), "no setting accepts parameters of the usual shapes: " + refusal);
  return out;
}

void accounting(Subject& s) {
  for (const auto& [name, spec] : settings(s)) {
    OptimizerRun run(s, spec, usual());
    for (size_t i = 0; i < run.size(); ++i) {
      const tn_estimate& e = run.estimate(i);
      const std::string of = " of a " + shape_text(run.forms()[i].shape) + " parameter with " + name;
      expect(e.state_bytes == run.state_bytes(i), "estimate says " + std::to_string(e.state_bytes) +
                                                      " bytes of state but state_layout declares " +
                                                      std::to_string(run.state_bytes(i)) + of);
      expect(std::isfinite(e.flops) && e.flops >= 0 && std::isfinite(e.bytes_moved) && e.bytes_moved >= 0,
             "estimate gives an impossible number of operations or bytes" + of);
    }
  }
}

void memory(Subject& s) {
  for (const auto& [name, spec] : settings(s))
    for (const Forms& forms : {usual(), usual(sdk::kBF16), usual(sdk::kBF16, true)})
      for (const tn_dtype grad : {sdk::kF32, sdk::kBF16})
        for (const uint32_t flags :
             {0u, uint32_t{TN_ITEM_STOCHASTIC_ROUNDING}, uint32_t{TN_ITEM_GRAD_MAY_BE_CLOBBERED}}) {
          OptimizerRun run(s, spec, forms);
          OptimizerStep options;
          options.grad_dtype = grad, options.flags = flags;
          steps(run, 2, options);
          for (size_t i = 0; i < run.size(); ++i)
            expect(all_finite(run.weight(i).floats()), "weights are not finite after two ordinary steps with " + name);
        }
}

void updates(Subject& s) {
  OptimizerRun run(s, s.spec(), usual());
  const auto before = run.bits();
  steps(run, 8);
  expect(run.bits() != before, "eight steps with gradients changed nothing");
  for (const bool master : {false, true}) {
    OptimizerRun wide(s, s.spec(), usual(sdk::kBF16, master));
    steps(wide, 8);
    for (size_t i = 0; i < wide.size(); ++i)
      expect(all_finite(wide.weight(i).floats()), "bf16 weights are not finite after eight steps");
  }
}

void determinism(Subject& s) {
  for (const auto& [name, spec] : settings(s)) {
    const auto first = after(s, {}, spec);
    expect(after(s, {}, spec) == first, "two equal runs differ in their bits with " + name);
    for (const int threads : {1, 2, 3})
      with_threads(threads, [&] {
        expect(after(s, {}, spec) == first, "the result depends on the number of threads with " + name);
      });
    OptimizerStep zeros;
    zeros.poison = 0;
    expect(after(s, zeros, spec) == first, "the result depends on what the workspace held before with " + name);
  }
}

void struct_sizes(Subject& s) {
  expect(after(s, {}, s.spec(), true) == after(s, {}, s.spec()),
         "the result changes when a newer host passes longer structs");
}

void order(Subject& s) {
  const auto first = after(s, {}, s.spec());
  OptimizerStep options;
  options.order = Order::kReversed;
  expect(after(s, options, s.spec()) == first, "the result depends on the order of the items");
  if (!(s.api<tn_optimizer_api>().caps & TN_OPTIMIZER_ONE_AT_A_TIME)) return;
  options.order = Order::kOneByOne;
  expect(after(s, options, s.spec()) == first,
         "one item at a time gives another result than all together, against TN_OPTIMIZER_ONE_AT_A_TIME");
}

void runs(Subject& s) {
  if (!s.plugin().extension<tn_runs>(TN_EXT_RUNS)) throw NotApplicable{"the optimizer takes whole parameters only"};
  const Forms forms = {{{33, 130}, TN_ROLE_Q}, {{40, 64}, TN_ROLE_DOWN, {TN_BFLOAT, 16, 1}}, {{2100}, TN_ROLE_NORM}};
  for (const uint32_t flags : {0u, uint32_t{TN_ITEM_STOCHASTIC_ROUNDING}})
    for (const auto& [name, spec] : settings(s)) {
      OptimizerStep whole, cut;
      whole.flags = cut.flags = flags, cut.order = Order::kInRuns;
      OptimizerRun one(s, spec, forms), other(s, spec, forms);
      for (int i = 0; i < 3; ++i) one.step(whole), other.step(cut);
      expect(one.bits() == other.bits(), "an update in runs of elements differs from the whole one, against org.tenon.runs/1, with " + name);
    }
}

void borrowing(Subject& s) {
  OptimizerRun moving(s, s.spec(), usual());
  for (int i = 0; i < 5; ++i) moving.step(), moving.relocate();
  expect(moving.bits() == after(s, {}, s.spec()),
         "the result changes when the host moves its tensors between steps; a pointer was kept");
}

void state_round_trip(Subject& s) {
  for (const auto& [name, spec] : settings(s)) {
    OptimizerRun straight(s, spec, usual()), resumed(s, spec, usual());
    steps(straight, 5);
    resumed.resume_from(straight);
    steps(straight, 3), steps(resumed, 3);
    expect(straight.bits() == resumed.bits(), "a resumed run differs from the one that went on with " + name);
  }
  const auto& api = s.api<tn_optimizer_api>();
  if (!TN_HAS(&api, tn_optimizer_api, load) || !api.load) return;
  OptimizerRun run(s, s.spec(), usual());
  int32_t status = 0;
  const Instance<tn_optimizer_api, tn_optimizer> other(api, s.spec(), status);
  for (const std::string& blob : {std::string(), std::string("x"), std::string(4096, '\xFF')})
    (void)accepted(api.load(other.get(), blob.data(), blob.size()), "load of a damaged blob");
}

void nothing_to_do(Subject& s) {
  for (const auto& [name, spec] : settings(s)) {
    OptimizerRun run(s, spec, usual());
    std::vector<std::vector<uint8_t>> before;
    for (size_t i = 0; i < run.size(); ++i) before.push_back(run.weight(i).raw());
    OptimizerStep still;
    still.lr = 0, still.decay_scale = 0;
    steps(run, 3, still);
    for (size_t i = 0; i < run.size(); ++i)
      expect(run.weight(i).raw() == before[i],
             "weights move although the learning rate and the decay are 0 with " + name);
  }
}

void zero_gradient(Subject& s) {
  for (const auto& [name, spec] : settings(s)) {
    OptimizerRun run(s, spec, usual());
    OptimizerStep zero;
    zero.gradient = [&](size_t i, int64_t) { return std::vector<float>(static_cast<size_t>(run.weight(i).count())); };
    steps(run, 3, zero);
    for (size_t i = 0; i < run.size(); ++i)
      expect(all_finite(run.weight(i).floats()), "a gradient of zeros makes weights NaN or Inf with " + name);
    steps(run, 2);
    for (size_t i = 0; i < run.size(); ++i)
      expect(all_finite(run.weight(i).floats()),
             "after gradients of zeros the next steps give NaN or Inf with " + name);
  }
}

void extreme_gradients(Subject& s) {
  for (const float value : {1e-38f, 1e-20f, 1e18f}) {
    OptimizerRun run(s, s.spec(), usual());
    OptimizerStep options;
    options.lr = 1e-3;
    options.gradient = [&](size_t i, int64_t t) {
      return normals(run.weight(i).count(), static_cast<uint32_t>(t), value);
    };
    steps(run, 3, options);
    for (size_t i = 0; i < run.size() && value < 1; ++i)
      expect(all_finite(run.weight(i).floats()), "tiny gradients make weights NaN or Inf");
  }
  // A host skips such a step; a plugin must come back from it all the same.
  for (const float bad : {NAN, INFINITY}) {
    OptimizerRun run(s, s.spec(), usual());
    OptimizerStep options;
    options.gradient = [&](size_t i, int64_t) {
      return std::vector<float>(static_cast<size_t>(run.weight(i).count()), bad);
    };
    try {
      steps(run, 2, options);
    } catch (const Failed& f) {
      if (f.sentence.find("failed (") == std::string::npos) throw;  // a refusal in words is fine
    }
  }
}

void gradient_scale(Subject& s) {
  if (s.plugin().extension<tn_linear_wgrad>(TN_EXT_LINEAR_WGRAD))
    throw NotApplicable{"the gradient is the plugin's own product, which it may scale or blur before the factor applies"};
  OptimizerStep scaled;
  OptimizerRun plain(s, s.spec(), usual()), other(s, s.spec(), usual());
  scaled.grad_scale = 0.25;
  scaled.gradient = [&](size_t i, int64_t t) {
    return normals(plain.weight(i).count(), static_cast<uint32_t>(1000 * t + static_cast<int64_t>(i)), 4);
  };
  steps(plain, 5), steps(other, 5, scaled);
  for (size_t i = 0; i < plain.size(); ++i)
    expect(distance(other.weight(i).floats(), plain.weight(i).floats()) < 1e-5,
           "a gradient four times as large with grad_scale 1/4 gives another update");
}

void odd_shapes(Subject& s) {
  Attempts attempts;
  size_t i = 0;
  for (const std::vector<int64_t>& shape :
       {std::vector<int64_t>{1}, {7}, {0}, {1, 1}, {1, 300}, {300, 1}, {33, 130}, {0, 5}, {3, 4, 5}})
    attempts.attempt([&] {
      OptimizerRun run(s, s.spec(), {{shape, kRole[i++ % 5]}});
      steps(run, 3);
    });
  expect(attempts.any(), "every shape is refused: " + attempts.refusal());
}

void convergence(Subject& s) {
  double best = INFINITY;
  // The gradient's estimate from one direction of n has n + 2 times its variance: a driven step gets a problem of its own size.
  const bool drives = s.plugin().extension<tn_drive>(TN_EXT_DRIVE) != nullptr;
  const std::vector<int64_t> shape = drives ? std::vector<int64_t>{3, 4} : std::vector<int64_t>{32, 24};
  for (const double lr : {0.3, 0.1, 0.03, 0.01, 0.003, 0.001}) {
    OptimizerRun run(s, s.spec(), {{shape, TN_ROLE_Q}});
    const std::vector<float> goal = normals(shape[0] * shape[1], 77);
    const double start = distance(run.weight(0).floats(), goal);
    OptimizerStep options;
    options.lr = lr, options.decay_scale = 0;
    options.gradient = [&](size_t, int64_t) { return plus(run.weight(0).floats(), -1, goal); };
    for (int i = 0; i < 150; ++i) run.step(options);
    const double left = distance(run.weight(0).floats(), goal) / start;
    if (left < best) best = left;
    if (best < 0.3) return;
  }
  failed("on a quadratic with the exact gradient, 150 steps leave " + percent(best) +
         " of the distance at every learning rate from 0.001 to 0.3");
}

void leaks(Subject& s) {
  OptimizerRun run(s, s.spec(), usual());
  expect_no_leak([&] { run.step(); });
  expect_no_leak([&] { OptimizerRun(s, s.spec(), usual()); });
}

constexpr Check kChecks[] = {
    {"accounting", "estimate and declared states agree byte for byte", accounting},
    {"memory", "nothing is written outside what was handed over, gradients only where allowed", memory},
    {"updates", "steps move the weights in f32 and bf16", updates},
    {"determinism", "equal runs, any number of threads and any workspace content give equal bits", determinism},
    {"struct sizes", "longer structs of a newer host change nothing", struct_sizes},
    {"runs", "an update in runs of elements is the whole update, bit for bit, where declared", runs},
    {"order", "items may come in any order, and one at a time where declared", order},
    {"borrowing", "no pointer is kept beyond a call", borrowing},
    {"state round trip", "a checkpoint continues bit for bit, and damaged blobs are survived", state_round_trip},
    {"nothing to do", "learning rate 0 and decay 0 leave the weights alone", nothing_to_do},
    {"zero gradient", "gradients of zeros stay finite", zero_gradient},
    {"extreme gradients", "tiny, huge and non-finite gradients are survived", extreme_gradients},
    {"gradient scale", "grad_scale multiplies the gradient", gradient_scale},
    {"odd shapes", "scalars, empty tensors, long and thin matrices work or are refused in words", odd_shapes},
    {"convergence", "a small quadratic is solved", convergence},
    {"leaks", "host memory does not grow with steps", leaks},
};

}  // namespace

std::span<const Check> optimizer_checks() {
  return kChecks;
}

}  // namespace tenon::conformance
