// One adapted linear with random numbers everywhere, its forward and backward, and finite differences of both.
#pragma once

#include "sdk/testing/adapter.h"

namespace tenon::sdk::testing {

struct LinearSize {
  int64_t m, n, T;
};
// m < n, m > n, one token, single rows and columns, odd sizes.
inline constexpr LinearSize kLinearSizes[] = {{5, 7, 3}, {7, 5, 3}, {5, 7, 1}, {1, 9, 4}, {9, 1, 4}, {33, 17, 21}};

struct AdapterProblem {
  LinearSize size;
  std::vector<float> x, dy;
  Base base;
  TestAdapter adapter;

  AdapterProblem(const std::string& object, LinearSize s, const TestAdapter::Options& options = {}, SiteSpec site = {"model.layers.0.self_attn.q_proj", 0, 0, TN_ROLE_Q})
      : size(s), x(normals(s.T * s.n, 1)), dy(normals(s.T * s.m, 2)), base{s.m, s.n, normals(s.m * s.n, 3, 0.5f), {}, 0, {}}, adapter(object, options) {
    site.m = s.m, site.n = s.n;
    EXPECT_EQ(adapter.bind({site}), TN_OK) << adapter.host.error;
    adapter.init(5, &base);
  }
  // Trainable parameters away from their start.
  void randomise(float scale = 0.3f) {
    for (size_t i = 0; i < adapter.params.size(); ++i)
      if (adapter.params[i].info.flags & TN_ADAPTER_PARAM_TRAINABLE) {
        std::vector<float> v = adapter.params[i].value.floats();
        const std::vector<float> d = normals(v.size(), 10 + static_cast<uint32_t>(i), scale);
        for (size_t k = 0; k < v.size(); ++k) v[k] += d[k];
        adapter.params[i].value.assign(v);
      }
  }
  std::vector<float> forward(const std::vector<float>& input, SavedSlots* saved = nullptr, CallOptions o = {}, tn_dtype dtype = kF32) {
    Tensor tx(dtype, {size.T, size.n}, input), ty(dtype, {size.T, size.m});
    SavedSlots unused;
    if (!saved) o.flags &= ~uint32_t{TN_CALL_SAVE};
    adapter.forward(0, base, *tx.get(), ty.get(), saved ? *saved : unused, o);
    return ty.floats();
  }
  // y and dx; parameter gradients start from zero.
  std::pair<std::vector<float>, std::vector<float>> run(CallOptions o = {}, tn_dtype dtype = kF32) {
    Tensor tx(dtype, {size.T, size.n}, x), ty(dtype, {size.T, size.m}), tdy(dtype, {size.T, size.m}, dy), tdx(dtype, {size.T, size.n});
    SavedSlots saved;
    adapter.zero_gradients();
    adapter.forward(0, base, *tx.get(), ty.get(), saved, o);
    adapter.backward(0, base, *tdy.get(), tdx.get(), saved, o);
    EXPECT_TRUE(tx.intact() && ty.intact() && tdy.intact() && tdx.intact());
    return {ty.floats(), tdx.floats()};
  }
  double loss(const std::vector<float>& input) {
    const std::vector<float> y = forward(input);
    double sum = 0;
    for (size_t i = 0; i < y.size(); ++i) sum += static_cast<double>(y[i]) * dy[i];
    return sum;
  }
  static std::vector<float> moved(std::vector<float> v, const std::vector<float>& direction, double step) {
    for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(v[i] + step * direction[i]);
    return v;
  }
  static double dot(const std::vector<float>& a, const std::vector<float>& b) {
    double s = 0;
    for (size_t i = 0; i < a.size(); ++i) s += static_cast<double>(a[i]) * b[i];
    return s;
  }
  static void expect_slope(double analytic, double numeric, double size, const std::string& what) {
    EXPECT_NEAR(analytic, numeric, 0.01 * std::fabs(numeric) + 2e-3 * size) << what;
  }
  // dx, and every trainable parameter but those whose key ends so, against central differences.
  void expect_gradients(const std::vector<std::string>& but = {}, double step = 1e-2) {
    const std::vector<float> dx = run().second, toward = normals(x.size(), 90);
    expect_slope(dot(dx, toward), (loss(moved(x, toward, step)) - loss(moved(x, toward, -step))) / (2 * step), norm(dx), "dx");
    for (TestAdapter::Param& p : adapter.params) {
      if (!(p.info.flags & TN_ADAPTER_PARAM_TRAINABLE)) continue;
      if (std::any_of(but.begin(), but.end(), [&](const std::string& end) { return p.key.ends_with(end); })) continue;
      const std::vector<float> value = p.value.floats(), g = p.grad.floats(), d = normals(value.size(), 91);
      p.value.assign(moved(value, d, step));
      const double above = loss(x);
      p.value.assign(moved(value, d, -step));
      const double below = loss(x);
      p.value.assign(value);
      expect_slope(dot(g, d), (above - below) / (2 * step), norm(g), p.key);
    }
  }
  // The merged weight, from the frozen one or, where the adapter holds the weight, from zero.
  std::vector<float> merged() {
    Tensor w(kF32, {size.m, size.n}, adapter.owned.empty() ? base.weight : std::vector<float>(base.weight.size()));
    EXPECT_EQ(adapter.merge(0, 0, size.m, *w.get()), TN_OK) << adapter.host.error;
    return w.floats();
  }
  // x · wᵀ.
  std::vector<float> product(const std::vector<float>& w) const {
    std::vector<float> y(static_cast<size_t>(size.T * size.m));
    for (int64_t t = 0; t < size.T; ++t)
      for (int64_t i = 0; i < size.m; ++i) {
        double s = 0;
        for (int64_t j = 0; j < size.n; ++j) s += static_cast<double>(x[t * size.n + j]) * w[i * size.n + j];
        y[t * size.m + i] = static_cast<float>(s);
      }
    return y;
  }
};

}  // namespace tenon::sdk::testing
