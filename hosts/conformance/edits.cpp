// The check of quantizers that edit models (org.tenon.edits/1): a plan that is always the same, and matrices that depend on nothing but what they are
// made of.
#include <cmath>
#include <cstring>

#include "hosts/conformance/check.h"
#include "hosts/conformance/edits.h"
#include "hosts/conformance/numbers.h"
#include "sdk/dtype.h"
#include "tenon/edits.h"

namespace tenon::conformance {
namespace {

constexpr int64_t kLayers = 2, kHidden = 64;
constexpr size_t kMost = 1 << 16;  // edits of a plan for so small a model

struct Plan {
  std::vector<tn_edit_matrix> matrices;
  std::vector<tn_edit> edits;
  std::string fault;

  // Called from inside the plugin, so they never throw.
  static int32_t matrix(void* self, const tn_edit_matrix* m) {
    auto& p = *static_cast<Plan*>(self);
    if (m->id != p.matrices.size()) p.fault = "matrix ids are not dense from 0";
    if (m->rows < 1 || m->columns < 1 || m->rows > 4096 || m->columns > 4096) p.fault = "a matrix has an impossible shape";
    if (m->statistic > TN_EDIT_STATISTIC_NORMALIZED_GRAM) p.fault = "a matrix wants a statistic that this ABI does not know";
    if (m->statistic != TN_EDIT_STATISTIC_NONE && (m->boundary < 0 || m->boundary > 2 * kLayers)) p.fault = "a statistic is of a boundary that the model does not have";
    if (p.matrices.size() == kMost) return TN_E_ARGUMENT;
    p.matrices.push_back(*m);
    return TN_OK;
  }
  static int32_t edit(void* self, const tn_edit* e) {
    auto& p = *static_cast<Plan*>(self);
    if (e->kind < TN_EDIT_UNTIE || e->kind > TN_EDIT_NORM_COUNT) p.fault = "an edit is of a kind that this ABI does not know";
    if ((e->kind == TN_EDIT_INPUT || e->kind == TN_EDIT_OUTPUT) && e->matrix >= p.matrices.size()) p.fault = "an edit names a matrix that was not declared before it";
    if (p.edits.size() == kMost) return TN_E_ARGUMENT;
    p.edits.push_back(*e);
    return TN_OK;
  }
};

int32_t read_rows(void*, uint32_t role, int32_t place, int64_t begin, int64_t, tn_tensor* out) {
  if (!(out->dtype.code == TN_FLOAT && out->dtype.bits == 32)) return TN_E_UNSUPPORTED;
  int64_t n = 1;
  for (int32_t i = 0; i < out->ndim; ++i) n *= out->shape[i];
  const std::vector<float> v = normals(n, role + 16 * static_cast<uint32_t>(place + 1) + 4096 * static_cast<uint32_t>(begin));
  std::memcpy(out->data, v.data(), v.size() * sizeof(float));
  return TN_OK;
}

// Σ x xᵀ of tokens whose channels depend on each other.
std::vector<float> gram(int64_t n) {
  const int64_t tokens = 3 * n;
  std::vector<float> x = normals(tokens * n, 9), g(static_cast<size_t>(n * n));
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t j = 1; j < n; ++j) x[t * n + j] += 0.7f * x[t * n + j - 1];
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) g[i * n + j] += x[t * n + i] * x[t * n + j];
  return g;
}

struct Edits {
  Subject& subject;
  const tn_edits& api;
  Instance<tn_quantizer_api, tn_quantizer>& instance;
  std::string with;

  Plan plan(bool tied) const {
    Plan p;
    const tn_edit_model model{sizeof model, tied ? uint32_t{TN_EDIT_MODEL_TIED} : 0u, kLayers, kHidden, 2 * kHidden, 4, 2, kHidden / 4, 320, 1e-5};
    const tn_edit_sink sink{sizeof sink, 0, &p, Plan::matrix, Plan::edit};
    const int32_t status = api.plan(instance.get(), &model, &sink);
    expect(p.fault.empty(), "plan: " + p.fault + with);
    if (status < 0) refused(status, "plan of edits");
    return p;
  }

  int32_t make(const tn_edit_matrix& m, const std::vector<float>& statistic, uint8_t poison, std::vector<float>& out) const {
    Bench& bench = subject.bench();
    tn_estimate e{};
    e.struct_size = sizeof e;
    must(api.estimate(instance.get(), bench.api, bench.device, &m, &e), "estimate of a matrix");
    Tensor in(bench, "the statistic", sdk::kF32, {kHidden, kHidden}, statistic), to(bench, "the matrix", sdk::kF32, {m.rows, m.columns});
    in.seal(), to.fill(0xFF);
    const Exec exec(bench, e.workspace_bytes, poison);
    const tn_rng rng{7, m.id, 1};
    const tn_edit_ops ops{sizeof ops, 0, nullptr, exec.get(), m.statistic != TN_EDIT_STATISTIC_NONE ? in.get() : nullptr, 3 * kHidden, &rng, read_rows};
    const int32_t status = api.matrix(instance.get(), &ops, &m, to.get());
    bench.expect_intact("matrix");
    out = to.floats();
    return status;
  }
};

}  // namespace

void edits(Subject& s) {
  const auto* api = s.plugin().extension<tn_edits>(TN_EXT_EDITS);
  if (!api) throw NotApplicable{"the plugin edits no models"};
  const std::vector<float> statistic = gram(kHidden);
  for (const auto& values : s.variants(false)) {
    int32_t status = 0;
    Instance<tn_quantizer_api, tn_quantizer> instance(s.api<tn_quantizer_api>(), s.spec(values), status);
    if (status < 0) refused(status, "create");
    const Edits run{s, *api, instance, " with " + words(values)};
    const Plan plan = run.plan(true), again = run.plan(true), untied = run.plan(false);
    expect(plan.edits.size() == again.edits.size() && plan.matrices.size() == again.matrices.size() &&
               std::equal(plan.edits.begin(), plan.edits.end(), again.edits.begin(), [](const tn_edit& a, const tn_edit& b) { return std::memcmp(&a, &b, sizeof a) == 0; }) &&
               std::equal(plan.matrices.begin(), plan.matrices.end(), again.matrices.begin(),
                          [](const tn_edit_matrix& a, const tn_edit_matrix& b) { return std::memcmp(&a, &b, sizeof a) == 0; }),
           "plan answers other edits when it is asked again" + run.with);
    for (const tn_edit& e : untied.edits) expect(e.kind != TN_EDIT_UNTIE, "plan unties a head that is no embedding" + run.with);
    for (const tn_edit_matrix& m : plan.matrices) {
      std::vector<float> first, second;
      must(run.make(m, statistic, 0xFF, first), "matrix");
      for (const float v : first) expect(std::isfinite(v), "a matrix holds NaN or Inf, or an element that was not written" + run.with);
      must(run.make(m, statistic, 0, second), "matrix");
      expect(first == second, "a matrix depends on what the workspace held before" + run.with);
      for (const int threads : {1, 3})
        with_threads(threads, [&] {
          must(run.make(m, statistic, 0xFF, second), "matrix");
          expect(first == second, "a matrix depends on the number of threads" + run.with);
        });
      if (m.statistic == TN_EDIT_STATISTIC_NONE) continue;
      std::vector<float> bad = statistic;
      bad[77] = bad[static_cast<size_t>(77 % kHidden * kHidden + 77 / kHidden)] = NAN;
      const int32_t refusal = run.make(m, bad, 0xFF, second);
      expect(refusal == TN_E_NUMERIC && !sentence_for(refusal).empty(), "NaN in the statistic is not refused with TN_E_NUMERIC and a sentence" + run.with);
    }
  }
}

}  // namespace tenon::conformance
