// Checks of mixers that own their projections. There is no formula that all of them compute, so they are held to themselves.
#include "hosts/conformance/attempts.h"
#include "hosts/conformance/check.h"
#include "hosts/conformance/mixer_run.h"
#include "hosts/conformance/slopes.h"

namespace tenon::conformance {
namespace {

constexpr int64_t kHidden = MixerRun::kHidden;

template <class Body>
void each_setting(Subject& s, Body body) {
  each_variant<MixerRun>(s, s.variants(true), body);
}

void documents(Subject& s) {
  each_setting(s, [](MixerRun& run, const std::string& name, const Spec&) {
    const std::vector<float> x = normals(33 * kHidden, 3);
    const auto packed = run.forward({1, 33, {{0, 20}, {20, 1}, {21, 12}}}, x);
    expect(all_finite(packed), "y of packed documents is NaN or Inf with " + name);
    for (const auto& [begin, length] : {std::pair<int64_t, int64_t>{0, 20}, {20, 1}, {21, 12}}) {
      const auto alone = run.forward({1, length}, slice(x, begin * kHidden, (begin + length) * kHidden));
      expect(distance(slice(packed, begin * kHidden, (begin + length) * kHidden), alone) < 1e-5, "a packed document differs from the same alone with " + name);
    }
  });
}

void causality(Subject& s) {
  each_setting(s, [](MixerRun& run, const std::string& name, const Spec&) {
    std::vector<float> x = normals(2 * 30 * kHidden, 3);
    const auto before = run.forward({2, 30}, x);
    for (int64_t i = 17 * kHidden; i < 30 * kHidden; ++i) x[i] += 1;
    const auto after = run.forward({2, 30}, x);
    expect(distance(slice(after, 0, 17 * kHidden), slice(before, 0, 17 * kHidden)) < 1e-5, "a token sees what comes after it with " + name);
    expect(distance(slice(after, 30 * kHidden, 60 * kHidden), slice(before, 30 * kHidden, 60 * kHidden)) < 1e-5, "a sequence sees another with " + name);
  });
}

void gradients(Subject& s) {
  each_setting(s, [](MixerRun& run, const std::string& name, const Spec&) {
    const MixerRun::Rows rows{2, 11};
    const std::vector<float> x = normals(rows.count() * kHidden, 3), dy = normals(rows.count() * kHidden, 4);
    run.forward(rows, x);
    const std::vector<float> dx = run.backward(rows, x, dy);
    expect_gradient("dx with " + name, dx, [&](const std::vector<float>& along, double step) { return dot(run.forward(rows, plus(x, step, along)), dy); });
    expect_gradients(run.parameters(), name, [&] { return dot(run.forward(rows, x), dy); });
  });
}

void decoding(Subject& s) {
  each_setting(s, [](MixerRun& run, const std::string& name, const Spec&) {
    const std::vector<float> x = normals(24 * kHidden, 3);
    const auto whole = run.forward({1, 24}, x, false);
    expect(distance(run.decode(x, {13, 1, 1, 1, 5, 3}), whole) < 1e-4, "decoding a sequence in pieces differs from all of it at once with " + name);
    expect(distance(run.decode(x, std::vector<int64_t>(24, 1)), whole) < 1e-4, "decoding token by token differs from all at once with " + name);
  });
}

void forecast(Subject& s) {
  each_setting(s, [](MixerRun& run, const std::string& name, const Spec&) {
    for (const MixerRun::Rows& rows : {MixerRun::Rows{1, 1}, MixerRun::Rows{2, 70}, MixerRun::Rows{1, 30, {{0, 11}, {11, 19}}}})
      expect(run.allocations(rows, false) == run.allocations(rows, true), "the forecast asks for other tensors than the pass with " + name);
  });
}

void determinism(Subject& s) {
  each_setting(s, [&](MixerRun&, const std::string& name, const Spec& spec) {
    const auto everything = [&](uint8_t poison) {
      MixerRun run(s, spec);
      const MixerRun::Rows rows{2, 40, {}, poison};
      const std::vector<float> x = normals(rows.count() * kHidden, 3);
      std::vector<float> all = run.forward(rows, x);
      for (const float v : run.backward(rows, x, x)) all.push_back(v);
      for (auto& p : run.parameters())
        for (const float g : p.grad->floats()) all.push_back(g);
      return all;
    };
    const auto first = everything(0xFF);
    expect(all_finite(first), "y, dx or a gradient is NaN or Inf with " + name);
    expect(everything(0) == first, "the result depends on what tensors held before with " + name);
    for (const int threads : {1, 3}) with_threads(threads, [&] { expect(everything(0xFF) == first, "the result depends on the number of threads with " + name); });
  });
}

constexpr Check kChecks[] = {
    {"mixer: documents", "packed documents are mixed as if each were alone", documents},
    {"mixer: causality", "no token sees a later one, and no sequence another", causality},
    {"mixer: gradients", "dx and the gradients of all parameters are those of the forward", gradients},
    {"mixer: decoding", "a sequence in pieces equals the whole, with the decode state alone between them", decoding},
    {"mixer: forecast", "the pass without memory asks for what the pass asks for", forecast},
    {"mixer: determinism", "equal bits again, for any number of threads and content of tensors", determinism},
};

}  // namespace

std::span<const Check> mixer_checks() {
  return kChecks;
}

}  // namespace tenon::conformance
