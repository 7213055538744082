// Checks of adapters that run the stack of blocks themselves. There is no formula that all of them compute, so they are held to themselves.
#include "hosts/conformance/attempts.h"
#include "hosts/conformance/check.h"
#include "hosts/conformance/region_run.h"
#include "hosts/conformance/slopes.h"

namespace tenon::conformance {
namespace {

constexpr int64_t kHidden = RegionRun::kHidden;

template <class Body>
void each_setting(Subject& s, Body body) {
  each_variant<RegionRun>(s, s.variants_and_dropout(), body);
}

std::vector<float> input(const RegionRun::Pass& pass, uint32_t stream) { return normals(pass.rows * kHidden, stream); }

void append(std::vector<float>& all, const std::vector<float>& more) { all.insert(all.end(), more.begin(), more.end()); }

// y, dx where there is one, and every gradient.
std::vector<float> everything(RegionRun& run, const RegionRun::Pass& pass, bool dx) {
  run.clear_gradients();
  std::vector<float> all = run.forward(pass, input(pass, 3));
  append(all, run.backward(pass, input(pass, 4), dx));
  for (auto& p : run.parameters())
    if (p.trains) append(all, p.grad->floats());
  return all;
}

void gradients(Subject& s) {
  each_setting(s, [](RegionRun& run, const std::string& name, const Spec&) {
    const RegionRun::Pass pass;
    const std::vector<float> x = input(pass, 3), dy = input(pass, 4);
    const bool gives_dx = run.gives_dx();
    run.forward(pass, x);
    const std::vector<float> dx = run.backward(pass, dy, gives_dx);
    if (gives_dx)
      expect_gradient("dx with " + name, dx, [&](const std::vector<float>& along, double step) { return dot(run.forward(pass, plus(x, step, along)), dy); });
    expect_gradients(run.parameters(), name, [&] { return dot(run.forward(pass, x), dy); });
  });
}

void replay(Subject& s) {
  each_setting(s, [](RegionRun& run, const std::string& name, const Spec&) {
    const bool dx = run.gives_dx();
    const auto first = everything(run, {}, dx);
    expect(everything(run, {}, dx) == first, "a second pass with the same random numbers gives other bits with " + name);
    const RegionRun::Pass other{.stream = 2};
    expect(run.forward({}, input({}, 3), false) == run.forward(other, input(other, 3), false), "an evaluation depends on the random numbers of training with " + name);
    expect(everything(run, {}, dx) == first, "a pass depends on an evaluation before it with " + name);
  });
}

void forecast(Subject& s) {
  each_setting(s, [](RegionRun& run, const std::string& name, const Spec&) {
    for (const int64_t rows : {1, 30})
      for (const bool trains : {true, false})
        expect(run.allocations({.rows = rows}, trains, false) == run.allocations({.rows = rows}, trains, true), "the forecast asks for other tensors than the pass with " + name);
  });
}

void determinism(Subject& s) {
  each_setting(s, [](RegionRun& run, const std::string& name, const Spec&) {
    const bool dx = run.gives_dx();
    const RegionRun::Pass pass{.rows = 40};
    const auto first = everything(run, pass, dx);
    expect(all_finite(first), "y, dx or a gradient is NaN or Inf with " + name);
    expect(everything(run, {.rows = 40, .poison = 0}, dx) == first, "the result depends on what tensors held before with " + name);
    expect(everything(run, {.rows = 40, .longer = true}, dx) == first, "the result changes when a newer host passes longer structs with " + name);
    for (const int threads : {1, 3}) with_threads(threads, [&] { expect(everything(run, pass, dx) == first, "the result depends on the number of threads with " + name); });
  });
}

constexpr Check kChecks[] = {
    {"region: gradients", "dx and the gradients of all parameters are those of the forward", gradients},
    {"region: replay", "equal random numbers give equal bits, and an evaluation uses none", replay},
    {"region: forecast", "the pass without memory asks for what the pass asks for", forecast},
    {"region: determinism", "equal bits for any number of threads, content of tensors and newer host", determinism},
};

}  // namespace

std::span<const Check> region_checks() {
  return kChecks;
}

}  // namespace tenon::conformance
