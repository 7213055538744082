// Checks of adapters.
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/json.h"
#include "hosts/conformance/adapter_run.h"
#include "hosts/conformance/attempts.h"
#include "hosts/conformance/check.h"
#include "sdk/dtype.h"
#include "tenon/region.h"

namespace tenon::conformance {
namespace {

constexpr int64_t kRows = 13;

// Settings that bind.
std::vector<std::pair<std::string, Spec>> settings(Subject& s) {
  std::string refusal;
  const auto binds = [&](const Spec& spec) { AdapterRun(s, spec); };
  auto out = accepted_settings(s, s.variants_and_dropout(), refusal, binds);
  if (out.empty()) out = accepted_settings(s, s.variants(true), refusal, binds);  // a width that the defaults do not divide may fit at a bound
  if (out.empty() && s.plugin().extension<tn_region_api>(TN_EXT_REGION)) throw NotApplicable{refusal};
  expect(!out.empty(), "no setting takes one of the usual linears: " + refusal);
  return out;
}

bool has_dropout(const std::string& setting) {
  return setting.find("dropout") != std::string::npos;
}

std::vector<float> input(AdapterRun& run, uint32_t site, int64_t rows = kRows) {
  return normals(rows * run.n(site), 20 + site);
}
std::vector<float> output_gradient(AdapterRun& run, uint32_t site, int64_t rows = kRows) {
  return normals(rows * run.m(site), 60 + site);
}

// x W^T of the frozen weight, plainly.
std::vector<float> base_product(const std::vector<float>& x, const std::vector<float>& w, int64_t m, int64_t n) {
  const int64_t rows = static_cast<int64_t>(x.size()) / n;
  std::vector<float> y(static_cast<size_t>(rows * m));
  for (int64_t t = 0; t < rows; ++t)
    for (int64_t j = 0; j < m; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < n; ++k) sum += double{x[t * n + k]} * w[j * n + k];
      y[t * m + j] = static_cast<float>(sum);
    }
  return y;
}

void start(Subject& s) {
  double worst = 0;
  AdapterRun run(s, settings(s)[0].second);
  run.initialise();
  for (const uint32_t site : run.taken()) {
    const std::vector<float> x = input(run, site), y = run.forward(site, x, nullptr, {.flags = 0});
    expect(all_finite(y), "the untrained adapter gives NaN or Inf on " + run.path(site));
    worst = std::max(worst, distance(y, base_product(x, run.weight(site), run.m(site), run.n(site))));
  }
  if (worst > 1e-5)
    throw NotApplicable{"the untrained adapter differs from the base by " + percent(worst) +
                        ", as some methods mean to"};
}

double loss(AdapterRun& run, uint32_t site, const std::vector<float>& x, const std::vector<float>& g) {
  return dot(run.forward(site, x, nullptr, {.flags = TN_CALL_TRAIN}), g);
}

void expect_slope(double analytic, double numeric, double size, const std::string& what) {
  expect(std::fabs(analytic - numeric) <= 0.02 * std::fabs(numeric) + 2e-3 * size,
         what + " is " + std::to_string(analytic) + " along a random direction where finite differences give " +
             std::to_string(numeric));
}

void gradients(Subject& s) {
  constexpr double kStep = 1e-2;
  for (const auto& [name, spec] : settings(s)) {
    AdapterRun run(s, spec);
    run.initialise();
    run.randomise();
    for (size_t i = 0; i < std::min<size_t>(run.taken().size(), 3); ++i) {
      const uint32_t site = run.taken()[i];
      const std::vector<float> x = input(run, site), g = output_gradient(run, site);
      AdapterRun::Saved saved;
      (void)run.forward(site, x, &saved);
      run.clear_gradients();
      const std::vector<float> dx = run.backward(site, g, saved);
      const std::string where = " of " + run.path(site) + " with " + name;
      const std::vector<float> direction = normals(static_cast<int64_t>(x.size()), 90);
      const double slope =
          (loss(run, site, plus(x, kStep, direction), g) - loss(run, site, plus(x, -kStep, direction), g)) /
          (2 * kStep);
      expect_slope(dot(dx, direction), slope, norm(dx), "dx" + where);
      if (run.api().caps & TN_ADAPTER_SURROGATE_GRADIENT) continue;
      for (AdapterRun::Parameter* p : run.trained(site)) {
        const std::vector<float> value = p->value->floats(), gradient = p->grad->floats(),
                                 d = normals(p->value->count(), 91);
        p->value->set(plus(value, kStep, d));
        const double above = loss(run, site, x, g);
        p->value->set(plus(value, -kStep, d));
        const double below = loss(run, site, x, g);
        p->value->set(value);
        expect_slope(dot(gradient, d), (above - below) / (2 * kStep), norm(gradient),
                     "the gradient of " + p->key + " with " + name);
      }
    }
  }
}

std::vector<std::vector<float>> gradients_of(AdapterRun& run, uint32_t site) {
  std::vector<std::vector<float>> out;
  for (AdapterRun::Parameter* p : run.trained(site)) out.push_back(p->grad->floats());
  return out;
}

void recompute(Subject& s) {
  for (const auto& [name, spec] : settings(s)) {
    AdapterRun run(s, spec);
    run.initialise(), run.randomise();
    const uint32_t site = run.taken()[0];
    const std::vector<float> x = input(run, site), g = output_gradient(run, site);
    AdapterRun::Saved saved, again;
    const std::vector<float> y = run.forward(site, x, &saved);
    run.clear_gradients();
    const std::vector<float> dx = run.backward(site, g, saved);
    const auto grads = gradients_of(run, site);
    expect(run.forward(site, x, &again, {.flags = TN_CALL_TRAIN | TN_CALL_SAVE | TN_CALL_RECOMPUTE}) == y,
           "recomputing gives other bits with " + name);
    (void)run.forward(site, x, &again, {.flags = TN_CALL_TRAIN | TN_CALL_SAVE | TN_CALL_RECOMPUTE}, sdk::kF32, true);
    run.clear_gradients();
    expect(run.backward(site, g, again) == dx && gradients_of(run, site) == grads,
           "backward after a forward without y gives other bits with " + name);
  }
}

void tiles(Subject& s) {
  for (const auto& [name, spec] : settings(s)) {
    AdapterRun run(s, spec);
    run.initialise(), run.randomise();
    const uint32_t site = run.taken()[0];
    const int64_t cut = 5, m = run.m(site), n = run.n(site);
    const std::vector<float> x = input(run, site), g = output_gradient(run, site);
    AdapterRun::Saved saved, first, second;
    const std::vector<float> y = run.forward(site, x, &saved);
    run.clear_gradients();
    (void)run.backward(site, g, saved);
    const auto whole = gradients_of(run, site);
    std::vector<float> y1 = run.forward(site, slice(x, 0, cut * n), &first);
    const std::vector<float> y2 = run.forward(site, slice(x, cut * n, kRows * n), &second, {.row_begin = cut});
    y1.insert(y1.end(), y2.begin(), y2.end());
    expect(distance(y1, y) < 1e-5, "two tiles of rows give another output than all rows at once with " + name);
    run.clear_gradients();
    (void)run.backward(site, slice(g, cut * m, kRows * m), second, {.row_begin = cut});
    (void)run.backward(site, slice(g, 0, cut * m), first);
    const auto tiled = gradients_of(run, site);
    for (size_t i = 0; i < whole.size(); ++i)
      expect(distance(tiled[i], whole[i]) < 1e-4,
             "gradients of two tiles of rows do not add up to those of all rows with " + name);
  }
}

void accumulation(Subject& s) {
  for (const auto& [name, spec] : settings(s)) {
    AdapterRun run(s, spec);
    run.initialise(), run.randomise();
    const uint32_t site = run.taken()[0];
    const std::vector<float> x = input(run, site), g = output_gradient(run, site);
    AdapterRun::Saved saved;
    (void)run.forward(site, x, &saved);
    run.clear_gradients();
    const std::vector<float> dx = run.backward(site, g, saved);
    const auto once = gradients_of(run, site);
    const std::vector<float> before = normals(static_cast<int64_t>(dx.size()), 92);
    const std::vector<float> added = run.backward(site, g, saved, {}, 1, &before);
    expect(distance(added, plus(before, 1, dx)) < 1e-5, "beta = 1 does not add to dx with " + name);
    const auto twice = gradients_of(run, site);
    for (size_t i = 0; i < once.size(); ++i)
      expect(distance(twice[i], plus(once[i], 1, once[i])) < 1e-5,
             "a second backward does not add to the gradients with " + name);
  }
}

void merging(Subject& s) {
  const auto& api = s.api<tn_adapter_api>();
  if (!TN_HAS(&api, tn_adapter_api, merge_rows) || !api.merge_rows) throw NotApplicable{"the adapter does not merge"};
  size_t merged = 0;
  for (const auto& [name, spec] : settings(s)) {
    AdapterRun run(s, spec);
    run.initialise(), run.randomise();
    for (const uint32_t site : run.taken()) {
      const int64_t m = run.m(site), n = run.n(site), cut = m / 3;
      const std::vector<float> start = run.owns(site) ? std::vector<float>(static_cast<size_t>(m * n)) : run.weight(site);
      std::vector<float> whole = start;
      if (!accepted(run.merge(site, 0, m, whole), "merge_rows")) continue;
      ++merged;
      std::vector<float> top = slice(start, 0, cut * n), rest = slice(start, cut * n, m * n);
      must(run.merge(site, 0, cut, top), "merge_rows"), must(run.merge(site, cut, m, rest), "merge_rows");
      top.insert(top.end(), rest.begin(), rest.end());
      expect(distance(top, whole) < 1e-6, "merging rows in two pieces differs from merging all with " + name);
      const std::vector<float> x = input(run, site);
      const double d = distance(base_product(x, whole, m, n), run.forward(site, x, nullptr, {.flags = 0}));
      expect(d < 1e-4, "the merged weight gives another output than the adapter, by " + percent(d) + ", with " + name);
    }
  }
  if (merged == 0) throw NotApplicable{"merging is refused in words"};
}

void determinism(Subject& s) {
  for (const auto& [name, spec] : settings(s)) {
    const auto everything = [&](const AdapterCall& call) {
      AdapterRun run(s, spec, nullptr, call.longer);
      run.initialise(call.poison), run.randomise();
      std::vector<std::vector<float>> out;
      for (const uint32_t site : run.taken()) {
        AdapterRun::Saved saved;
        out.push_back(run.forward(site, input(run, site), &saved, call));
        out.push_back(run.backward(site, output_gradient(run, site), saved, call));
        for (auto& g : gradients_of(run, site)) out.push_back(std::move(g));
      }
      return out;
    };
    const auto first = everything({});
    expect(everything({}) == first, "two equal runs differ in their bits with " + name);
    for (const int threads : {1, 3})
      with_threads(threads, [&] {
        expect(everything({}) == first, "the result depends on the number of threads with " + name);
      });
    expect(everything({.poison = 0}) == first, "the result depends on what the workspace held before with " + name);
    expect(everything({.longer = true}) == first,
           "the result changes when a newer host passes longer structs with " + name);
  }
}

void rows(Subject& s) {
  for (const auto& [name, spec] : settings(s)) {
    AdapterRun run(s, spec);
    run.initialise(), run.randomise();
    const uint32_t site = run.taken()[0];
    for (const int64_t n : {0, 1, 7, 65}) {
      AdapterRun::Saved saved;
      expect(all_finite(run.forward(site, input(run, site, n), &saved)), "the output is not finite with " + name);
      expect(all_finite(run.backward(site, output_gradient(run, site, n), saved)),
             "the gradient is not finite with " + name);
    }
    if (has_dropout(name)) continue;
    AdapterRun::Saved wide, narrow;
    const std::vector<float> x = input(run, site), y = run.forward(site, x, &wide),
                             y16 = run.forward(site, x, &narrow, {}, sdk::kBF16);
    expect(distance(y16, y) < 0.03,
           "in bf16 the output differs from f32 by " + percent(distance(y16, y)) + " with " + name);
    const std::vector<float> g = output_gradient(run, site);
    run.clear_gradients();
    const std::vector<float> dx = run.backward(site, g, wide);
    const auto grads = gradients_of(run, site);
    run.clear_gradients();
    expect(distance(run.backward(site, g, narrow, {}, 0, nullptr, sdk::kBF16), dx) < 0.03,
           "in bf16 dx differs from f32 with " + name);
    const auto grads16 = gradients_of(run, site);
    for (size_t i = 0; i < grads.size(); ++i)
      expect(distance(grads16[i], grads[i]) < 0.05, "in bf16 a parameter's gradient differs from f32 with " + name);
  }
}

void config(Subject& s) {
  for (const auto& [name, spec] : settings(s)) {
    AdapterRun run(s, spec);
    const std::string text = run.config();
    const Json json = parse_json(text, "the adapter's configuration");
    expect(json.is_object() && json.contains("peft_type"), "the configuration has no peft_type, so no reader knows it");
    AdapterRun back(s, s.spec(), text.c_str());
    expect(back.taken() == run.taken() && back.parameters().size() == run.parameters().size(),
           "an adapter made from the written configuration takes other linears with " + name);
    for (size_t i = 0; i < run.parameters().size(); ++i)
      expect(back.parameters()[i].key == run.parameters()[i].key &&
                 back.parameters()[i].value->shape() == run.parameters()[i].value->shape(),
             "an adapter made from the written configuration has other parameters with " + name);
  }
  for (const char* bad :
       {"", "{", "[]", "{\"r\": -1}", "{\"peft_type\": \"NO_SUCH\"}", "{\"r\": \"many\", \"target_modules\": 5}"}) {
    int32_t status = 0;
    const Spec spec = s.spec();
    const Instance<tn_adapter_api, tn_adapter> instance(s.api<tn_adapter_api>(), spec, status,
                                                        static_cast<const char*>(bad));
    (void)accepted(status, std::string("create from the configuration ") + bad);
  }
}

void leaks(Subject& s) {
  AdapterRun run(s, s.spec());
  run.initialise();
  const uint32_t site = run.taken()[0];
  const std::vector<float> x = input(run, site), g = output_gradient(run, site);
  expect_no_leak([&] {
    AdapterRun::Saved saved;
    (void)run.forward(site, x, &saved);
    (void)run.backward(site, g, saved);
  });
}

constexpr Check kChecks[] = {
    {"start", "an untrained adapter leaves the model as it is", start},
    {"gradients", "dx and every parameter's gradient agree with finite differences", gradients},
    {"recompute", "a second forward gives the same bits, with and without y", recompute},
    {"tiles", "any cut of the rows gives the same numbers, dropout included", tiles},
    {"accumulation", "gradients are added to, dx by beta", accumulation},
    {"merging", "the merged weight computes what the adapter computes", merging},
    {"determinism", "equal bits again, for any number of threads, workspace content and newer host", determinism},
    {"rows", "0, 1 and odd numbers of rows; bf16 agrees with f32", rows},
    {"config", "the written configuration makes the same adapter; damaged ones are refused in words", config},
    {"leaks", "host memory does not grow with calls", leaks},
};

}  // namespace

std::span<const Check> adapter_checks() {
  return kChecks;
}

}  // namespace tenon::conformance
