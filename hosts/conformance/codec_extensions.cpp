// Checks of what only some quantizers offer: several products of one input, weights in segments, and weights that are trained before they are coded.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "hosts/conformance/check.h"
#include "hosts/conformance/codec_checks.h"
#include "hosts/conformance/codec_run.h"
#include "sdk/dtype.h"
#include "tenon/linears.h"
#include "tenon/segments.h"
#include "tenon/trainable.h"

namespace tenon::conformance {
namespace {

using Shape = std::vector<int64_t>;
const Shape kWeight = {24, 64};

// Weights of several heights times one input, against each by itself.
bool linears_of(Subject& s, const std::string& name, const Spec& spec, const tn_linears& api, int64_t rows, tn_dtype dtype) {
  constexpr int64_t kHeights[] = {48, 7, 64}, kWidth = 256;
  CodecRun run(s, spec, {kHeights[0], kWidth});
  const std::vector<float> in = normals(rows * kWidth, 14);
  std::vector<Coded> coded;
  std::vector<tn_target> targets;
  std::vector<std::vector<float>> want;
  for (const int64_t m : kHeights) {
    run.reshape({m, kWidth});
    coded.push_back(run.encode(normals(run.count(), static_cast<uint32_t>(15 + m))));
    targets.push_back(*run.target());
    std::vector<float> product(static_cast<size_t>(rows * m));
    if (run.linear(coded.back(), false, rows, in, 1, 0, dtype, product)) want.push_back(std::move(product));
  }
  std::vector<const tn_target*> pointers;
  for (const tn_target& t : targets) pointers.push_back(&t);
  tn_estimate e{sizeof(tn_estimate)};
  const int32_t status = api.estimate(run.self(), run.bench().api, run.bench().device, pointers.data(), pointers.size(), rows, &e);
  if (!accepted(status, "estimate of several products")) return false;
  expect(want.size() == targets.size(), "products of " + std::to_string(rows) + " rows are offered together but not one by one with " + name);
  Tensor x(run.bench(), "the input of several products", dtype, {rows, kWidth}, in);
  x.seal();
  std::vector<std::unique_ptr<Tensor>> results;
  std::vector<tn_tensor*> y;
  std::vector<std::vector<tn_tensor*>> parts;
  std::vector<tn_tensor* const*> components;
  for (size_t i = 0; i < targets.size(); ++i) {
    results.push_back(std::make_unique<Tensor>(run.bench(), "the result of a product", dtype, Shape{rows, kHeights[i]}));
    results.back()->fill(0xFF);
    y.push_back(results.back()->get());
    parts.push_back(coded[i].pointers());
    coded[i].seal();
  }
  for (const auto& p : parts) components.push_back(p.data());
  const Exec exec(run.bench(), e.workspace_bytes);
  must(api.run(run.self(), exec.get(), pointers.data(), components.data(), pointers.size(), x.get(), y.data()), "several products");
  run.bench().expect_intact("several products");
  for (size_t i = 0; i < results.size(); ++i)
    expect(results[i]->floats() == want[i],
           "weight " + std::to_string(i) + " of several differs from its product by itself, over " + std::to_string(rows) + " rows with " + name);
  return true;
}

// The first `count` segments of a coded weight.
Coded prefix(Bench& bench, const Coded& all, int64_t count) {
  Coded out;
  out.names = all.names, out.flags = all.flags;
  for (size_t i = 0; i < all.parts.size(); ++i) {
    Shape shape = all.parts[i]->shape();
    const bool segmented = all.flags[i] & TN_COMPONENT_SEGMENTED;
    const size_t each = segmented ? all.parts[i]->bytes() / static_cast<size_t>(shape[0]) : 0;
    if (segmented) shape[0] = count;
    out.parts.push_back(std::make_unique<Tensor>(bench, "component " + all.names[i], all.parts[i]->dtype(), shape));
    std::vector<uint8_t> bytes = all.parts[i]->raw();
    if (segmented) bytes.resize(each * static_cast<size_t>(count));
    out.parts.back()->set_raw(bytes);
  }
  return out;
}

void segments_of(Subject& s, const std::string& name, const Spec& spec, const tn_segmented& api) {
  CodecRun run(s, spec, kWeight);
  Longer<tn_segment_plan> plan;
  must(api.plan(run.self(), plan.get(TN_SIZE_TO(tn_segment_plan, length), false)), "plan of the segments");
  expect(plan.value.scored_levels == 0 || (plan.value.sequences > 0 && plan.value.length > 1),
         "the plan asks for the losses of a text of " + std::to_string(plan.value.sequences) + " sequences of " +
             std::to_string(plan.value.length) + " tokens with " + name);
  const std::vector<float> x = normals(run.count(), 12);
  const Coded all = run.encode(x);
  int64_t count = 0;
  for (size_t i = 0; i < all.parts.size(); ++i) {
    if (!(all.flags[i] & TN_COMPONENT_SEGMENTED)) continue;
    const Shape& shape = all.parts[i]->shape();
    expect(shape.size() >= 2, "component " + all.names[i] + " is flagged as segmented but has " +
                                  std::to_string(shape.size()) + " axes with " + name);
    expect(count == 0 || count == shape[0], "component " + all.names[i] + " has " + std::to_string(shape[0]) +
                                                " segments, others " + std::to_string(count) + ", with " + name);
    count = shape[0];
  }
  expect(count > 0, "the codec offers segments but plans no component flagged TN_COMPONENT_SEGMENTED with " + name);
  const std::vector<float> whole = run.decode(all);
  double before = 1;
  for (int64_t k = 1; k <= count; ++k) {
    const Coded part = prefix(run.bench(), all, k);
    const std::vector<float> y = run.decode(part);
    const double error = distance(y, x);
    expect(error <= before * (1 + 1e-6) + 1e-6, "the first " + std::to_string(k) + " segments leave an error of " +
                                                    percent(error) + ", one less leaves " + percent(before) +
                                                    ", with " + name);
    before = error;
    expect(k < count || y == whole, "all segments passed as a prefix differ from the whole with " + name);
    const std::vector<float> in = normals(3 * kWeight[1], 13);
    std::vector<float> product(static_cast<size_t>(3 * kWeight[0]));
    if (!run.linear(part, false, 3, in, 1, 0, sdk::kF32, product)) continue;
    for (int64_t t = 0; t < 3; ++t)
      for (int64_t r = 0; r < kWeight[0]; ++r) {
        double sum = 0, size = 0;
        for (int64_t j = 0; j < kWeight[1]; ++j) {
          const double p = double{in[t * kWeight[1] + j]} * y[r * kWeight[1] + j];
          sum += p, size += std::fabs(p);
        }
        expect(
            std::fabs(product[t * kWeight[0] + r] - sum) <= 2e-5 * (size + 1e-6),
            "the fused product of the first " + std::to_string(k) + " segments differs from their decode with " + name);
      }
  }
}

// A weight in its training form.
struct Trained {
  CodecRun& run;
  const tn_trainable& api;
  std::vector<std::unique_ptr<Tensor>> values;
  std::vector<double> rates;

  Trained(CodecRun& r, const tn_trainable& a) : run(r), api(a) {
    struct Collector {
      std::vector<tn_value> values;
      static int32_t declare(void* self, const tn_value* v) {
        if (!v || !v->name || !*v->name || v->ndim < 1 || v->ndim > 4 || !(v->lr >= 0)) return TN_E_ARGUMENT;
        return static_cast<Collector*>(self)->values.push_back(*v), TN_OK;
      }
    } collector;
    const tn_value_sink sink{sizeof(tn_value_sink), 0, &collector, Collector::declare};
    must(api.values(run.self(), run.target(), &sink), "values of the training form");
    expect(!collector.values.empty(), "the training form has no values");
    for (const tn_value& v : collector.values) {
      values.push_back(std::make_unique<Tensor>(run.bench(), "a value of the training form", sdk::kF32,
                                                Shape(v.shape, v.shape + v.ndim)));
      rates.push_back(v.lr);
    }
  }
  std::vector<tn_tensor*> pointers() const {
    std::vector<tn_tensor*> out;
    for (const auto& v : values) out.push_back(v->get());
    return out;
  }
  int32_t start(const std::vector<float>& x) {
    Tensor src(run.bench(), "the source", sdk::kF32, kWeight, x);
    src.seal();
    const Exec exec(run.bench(), 0);
    return api.start(run.self(), exec.get(), run.target(), src.get(), pointers().data());
  }
  std::vector<float> materialize(int64_t begin, int64_t end) {
    Tensor w(run.bench(), "the materialized weight", sdk::kF32, {end - begin, kWeight[1]});
    const Exec exec(run.bench(), 0);
    must(api.materialize(run.self(), exec.get(), run.target(), pointers().data(), begin, end, w.get()), "materialize");
    run.bench().expect_intact("materialize");
    return w.floats();
  }
  // The gradients of all values, begun at `from`, after the rows of dw in panels of `step`.
  std::vector<std::vector<float>> gradient(const std::vector<float>& dw, int64_t step, float from) {
    std::vector<std::unique_ptr<Tensor>> gradients;
    std::vector<tn_tensor*> wanted;
    for (const auto& v : values) {
      const std::vector<float> first(static_cast<size_t>(v->count()), from);
      gradients.push_back(std::make_unique<Tensor>(run.bench(), "a gradient", sdk::kF32, v->shape(), first));
      wanted.push_back(gradients.back()->get());
    }
    const Exec exec(run.bench(), 0);
    for (int64_t r = 0; r < kWeight[0]; r += step) {
      const int64_t end = std::min(r + step, kWeight[0]);
      Tensor panel(run.bench(), "rows of a gradient", sdk::kF32, {end - r, kWeight[1]},
                   slice(dw, r * kWeight[1], end * kWeight[1]));
      must(api.gradient(run.self(), exec.get(), run.target(), pointers().data(), panel.get(), r, end, wanted.data()),
           "gradient");
    }
    run.bench().expect_intact("gradient");
    std::vector<std::vector<float>> out;
    for (const auto& g : gradients) out.push_back(g->floats());
    return out;
  }
};

void gradients_of_components(CodecRun& run, const tn_trainable& api, const std::string& name) {
  Coded coded = run.encode(normals(run.count(), 14));
  const std::vector<float> dw = normals(run.count(), 15);
  Tensor panel(run.bench(), "the gradient of a weight", sdk::kF32, kWeight, dw);
  for (size_t i = 0; i < coded.parts.size(); ++i) {
    if (!(coded.flags[i] & TN_COMPONENT_TRAINABLE) || coded.parts[i]->dtype().bits != 32) continue;
    expect(TN_HAS(&api, tn_trainable, component_gradient) && api.component_gradient,
           "component " + coded.names[i] + " is flagged as trainable but there is no component_gradient with " + name);
    std::vector<float> at = coded.parts[i]->floats();
    Tensor gradient(run.bench(), "the gradient of a component", sdk::kF32, {static_cast<int64_t>(at.size())},
                    std::vector<float>(at.size()));
    std::vector<tn_tensor*> wanted(coded.parts.size());
    wanted[i] = gradient.get();
    const Exec exec(run.bench(), 0);
    must(api.component_gradient(run.self(), exec.get(), run.target(), coded.pointers().data(), panel.get(), 0,
                                kWeight[0], wanted.data()),
         "component_gradient");
    const std::vector<float> got = gradient.floats();
    for (size_t e = 0; e < at.size(); e += at.size() / 7 + 1) {
      const float keep = at[e], h = 0.01f * (std::fabs(keep) + 1e-3f);
      const auto moved = [&](float to) {
        at[e] = to;
        coded.parts[i]->set(at);
        return dot(run.decode(coded), dw);
      };
      const double slope = (moved(keep + h) - moved(keep - h)) / (2.0 * h);
      moved(keep);
      expect(std::fabs(got[e] - slope) <= 1e-2 * std::fabs(slope) + 1e-2,
             "the gradient of " + coded.names[i] + "[" + std::to_string(e) + "] is " + std::to_string(got[e]) +
                 " where finite differences of decode give " + std::to_string(slope) + " with " + name);
    }
  }
}

void trained_grid(Subject& s, const std::string& name, const Spec& spec, const tn_trainable& api) {
  CodecRun run(s, spec, kWeight);
  Longer<tn_training_plan> plan;
  must(api.plan(run.self(), plan.get(TN_SIZE_TO(tn_training_plan, optimizer), false)), "plan of the training");
  const tn_training_plan& p = plan.value;
  expect(p.sequences >= 0 && (p.sequences == 0 || (p.length > 1 && p.epochs >= 0 && p.batch > 0 && p.floor >= 0 &&
                                                   p.floor <= 1 && p.optimizer && *p.optimizer)),
         "the plan of the training cannot be carried out with " + name);
  Trained form(run, api);
  const std::vector<float> x = normals(run.count(), 16);
  must(form.start(x), "start");
  const std::vector<float> w = form.materialize(0, kWeight[0]);
  expect(distance(w, x) < 0.75,
         "the weight that training begins with has an error of " + percent(distance(w, x)) + " with " + name);
  expect(form.materialize(5, 9) == slice(w, 5 * kWeight[1], 9 * kWeight[1]),
         "rows 5 to 9 differ from the slice of the whole weight with " + name);

  const std::vector<float> dw = normals(run.count(), 17);
  const auto whole = form.gradient(dw, kWeight[0], 0), panels = form.gradient(dw, 7, 0),
             added = form.gradient(dw, kWeight[0], 1);
  bool any = p.sequences == 0;
  for (size_t v = 0; v < whole.size(); ++v) {
    expect(all_finite(whole[v]), "a gradient is NaN or Inf with " + name);
    any = any || (form.rates[v] > 0 && norm(whole[v]) > 0);
    expect(distance(panels[v], whole[v]) < 1e-5,
           "gradients depend on the panels in which their rows come with " + name);
    expect(distance(plus(added[v], -1, std::vector<float>(added[v].size(), 1.0f)), whole[v]) < 1e-4,
           "a gradient replaces what is there instead of adding to it with " + name);
  }
  expect(any, "no value that is to be trained has a gradient with " + name);
  for (const int threads : {1, 3})
    with_threads(threads, [&] {
      expect(form.gradient(dw, kWeight[0], 0) == whole, "gradients depend on the number of threads with " + name);
    });

  const Coded coded = run.plan();
  const Exec exec(run.bench(), 0);
  must(api.harden(run.self(), exec.get(), run.target(), form.pointers().data(), coded.pointers().data()), "harden");
  run.bench().expect_intact("harden");
  expect(distance(run.decode(coded), w) < 2e-3, "the hardened weight is " + percent(distance(run.decode(coded), w)) +
                                                    " off the one that was trained with " + name);

  std::vector<float> bad = x;
  bad[100] = NAN;
  const int32_t status = form.start(bad);
  expect(status == TN_E_NUMERIC && !sentence_for(status).empty(),
         std::string("training that starts from NaN answers ") + status_name(status) + " with " + name);
  gradients_of_components(run, api, name);
}

}  // namespace

void check_linears(Subject& s) {
  const auto* api = s.plugin().extension<tn_linears>(TN_EXT_LINEARS);
  if (!api) throw NotApplicable{"the codec multiplies one weight at a time"};
  size_t compared = 0;
  for (const auto& [name, spec] : codec_settings(s, {64, 256}))
    for (const int64_t rows : {1, 5, 40})
      for (const tn_dtype dtype : {sdk::kF32, sdk::kBF16}) compared += linears_of(s, name, spec, *api, rows, dtype);
  expect(compared > 0, "the codec offers products of several weights and refuses all of them");
}

void check_segments(Subject& s) {
  const auto* api = s.plugin().extension<tn_segmented>(TN_EXT_SEGMENTS);
  if (!api) throw NotApplicable{"weights of this codec come in one piece"};
  for (const auto& [name, spec] : codec_settings(s, kWeight)) segments_of(s, name, spec, *api);
}

void check_trained_grids(Subject& s) {
  const auto* api = s.plugin().extension<tn_trainable>(TN_EXT_TRAINABLE);
  if (!api) throw NotApplicable{"the codec trains no weights"};
  for (const auto& [name, spec] : codec_settings(s, kWeight)) trained_grid(s, name, spec, *api);
}

}  // namespace tenon::conformance
