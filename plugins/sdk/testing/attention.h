// One attention problem for the tests: random inputs, the plugin's answer through the ABI, and the dense f64 answer to
// the same inputs.
#pragma once

#include <gtest/gtest.h>
#include <omp.h>

#include <map>
#include <random>

#include "sdk/attention/reference.h"
#include "sdk/testing/host.h"
#include "tenon/attention_form.h"

namespace tenon::sdk::testing::attention {

using testing::Tensor;

inline tn_mask_term causal() {
  return {sizeof(tn_mask_term), TN_MASK_CAUSAL, 0, 0, 0, nullptr};
}
inline tn_mask_term window(int64_t left, int64_t right) {
  return {sizeof(tn_mask_term), TN_MASK_WINDOW, left, right, 0, nullptr};
}
inline tn_mask_term sink(int64_t n) {
  return {sizeof(tn_mask_term), TN_MASK_SINK, 0, 0, n, nullptr};
}

struct Case {
  int64_t batch = 1, t_q = 1, t_k = 1, heads = 1, kv_heads = 1, d = 64, e = 64;
  std::vector<tn_mask_term> mask{};
  std::vector<sdk::Segment> segments{};
  int64_t q_pos = 0, k_pos = 0;
  double scale = 0, softcap = 0, dropout = 0;
  tn_dtype dtype = sdk::kF32;
  bool sink_logit = false, partial = false, d_lse = false;
  uint32_t phase = TN_PHASE_TRAIN;
  uint32_t layer = 0, layers = 1, head_offset = 0, heads_global = 0;  // 0: heads
  int64_t state_tokens = 0;
  double amplitude = 1;  // standard deviation of q and k
};

// The tensors of a case, by port.
struct Bindings {
  std::map<uint32_t, Tensor> tensors;
  std::map<uint32_t, tn_tensor*> views;  // replace tensors
  uint32_t gradient_flags = 0;

  Tensor& at(uint32_t port) { return tensors.at(port); }
  template <class F>
  int32_t with(F call) {
    std::vector<tn_port_bind> binds;
    for (auto& [port, tensor] : tensors) {
      const bool gradient =
          port == TN_PORT_DQ || port == TN_PORT_DK || port == TN_PORT_DV || port == TN_PORT_D_SINK_LOGIT;
      tn_tensor* t = views.count(port) ? views[port] : tensor.get();
      binds.push_back({sizeof(tn_port_bind), port, gradient ? gradient_flags : 0, 0, t});
    }
    std::vector<const tn_port_bind*> pointers;
    for (auto& b : binds) pointers.push_back(&b);
    return call(pointers.data(), pointers.size());
  }
};

inline std::vector<double> widen(const std::vector<float>& x) {
  return {x.begin(), x.end()};
}

inline std::vector<float> noise(int64_t n, double amplitude, std::mt19937& random) {
  std::normal_distribution<float> normal(0.0f, static_cast<float>(amplitude));
  std::vector<float> out(static_cast<size_t>(n));
  for (float& x : out) x = normal(random);
  return out;
}

// The plugin object under test with one case.
class Runner {
 public:
  Runner(const std::string& object, const Case& c, const std::map<std::string, std::string>& hypers = {})
      : c_(c), plugin_(sdk::testing::load_plugin(host_, object)) {
    api_ = static_cast<const tn_attention_api*>(plugin_.api);
    config_ = {sizeof config_,
               static_cast<uint32_t>(c.heads),
               static_cast<uint32_t>(c.kv_heads),
               static_cast<uint32_t>(c.d),
               static_cast<uint32_t>(c.e),
               c.layer,
               c.layers,
               c.head_offset,
               c.heads_global ? c.heads_global : static_cast<uint32_t>(c.heads),
               0,
               c.scale,
               c.softcap};
    const sdk::testing::HyperValues values(plugin_, hypers);
    EXPECT_EQ(api_->create(host_.get(), values.data(), plugin_.n_hypers, &config_, &self_), TN_OK) << host_.error;
    std::mt19937 random(7);
    const auto add = [&](uint32_t port, tn_dtype dtype, std::vector<int64_t> shape, double amplitude) {
      Tensor t(dtype, std::move(shape));
      t.assign(noise(t.size(), amplitude, random));
      bindings.tensors.emplace(port, std::move(t));
    };
    const std::vector<int64_t> q{c.batch, c.t_q, c.heads, c.d}, k{c.batch, c.t_k, c.kv_heads, c.d},
        v{c.batch, c.t_k, c.kv_heads, c.e}, o{c.batch, c.t_q, c.heads, c.e}, rows{c.batch, c.heads, c.t_q};
    add(TN_PORT_Q, c.dtype, q, c.amplitude), add(TN_PORT_K, c.dtype, k, c.amplitude), add(TN_PORT_V, c.dtype, v, 1);
    add(TN_PORT_DO, c.dtype, o, 1);
    add(TN_PORT_O, c.partial ? sdk::kF32 : c.dtype, o, 1), add(TN_PORT_LSE, sdk::kF32, rows, 1);
    add(TN_PORT_DQ, c.dtype, q, 1), add(TN_PORT_DK, c.dtype, k, 1), add(TN_PORT_DV, c.dtype, v, 1);
    if (c.sink_logit)
      add(TN_PORT_SINK_LOGIT, sdk::kF32, {c.heads}, 1), add(TN_PORT_D_SINK_LOGIT, sdk::kF32, {c.heads}, 1);
    if (c.d_lse) add(TN_PORT_D_LSE, sdk::kF32, rows, 1);
  }
  ~Runner() { api_->destroy(self_); }

  // 0 threads: those of the library.
  int32_t plan(tn_attention_plan& out) {
    tn_device_api device = *sdk::testing::cpu_device_api();
    device.info = [](tn_device*, uint32_t, tn_device_info* info) {
      *info = {};
      info->struct_size = sizeof *info;
      info->n_threads = static_cast<uint32_t>(threads_);
      return static_cast<int32_t>(TN_OK);
    };
    threads_ = threads;
    return with_shape([&](const tn_attention_shape* shape) {
      return api_->plan(self_, &device, sdk::testing::cpu_device(), shape, &out);
    });
  }
  int32_t forward() { return run(api_->forward, &tn_attention_plan::forward); }
  int32_t backward() { return run(api_->backward, &tn_attention_plan::backward); }

  sdk::DenseAttention dense() {
    sdk::DenseAttention a{c_.batch, c_.t_q, c_.t_k, c_.heads, c_.kv_heads, c_.d, c_.e, c_.scale, c_.softcap};
    a.mask = c_.mask, a.segments = c_.segments, a.q_pos = c_.q_pos, a.k_pos = c_.k_pos, a.dropout = c_.dropout,
    a.rng = rng;
    if (const auto* form = static_cast<const tn_attention_form*>(plugin_.get_extension(TN_EXT_ATTENTION_FORM))) {
      EXPECT_EQ(form->form(self_, &a.form, &a.epsilon), TN_OK);
      a.factor = [this, form](int64_t h, int64_t i, int64_t j) {
        double x = 0;
        EXPECT_EQ(form->factors(self_, static_cast<uint32_t>(h), i, j, 1, &x), TN_OK);
        return x;
      };
    }
    a.q = widen(values(TN_PORT_Q)), a.k = widen(values(TN_PORT_K)), a.v = widen(values(TN_PORT_V));
    if (c_.sink_logit) a.sink_logit = widen(values(TN_PORT_SINK_LOGIT));
    return a;
  }
  std::vector<float> values(uint32_t port) { return bindings.at(port).floats(); }

  Bindings bindings;
  tn_rng rng{0x1234, 5, 6};
  int threads = 2;
  int64_t workspace_shortfall = 0;
  const std::string& error() const { return host_.error; }
  const tn_attention_api* api() const { return api_; }
  tn_attention* self() const { return self_; }

 private:
  template <class F>
  int32_t with_shape(F f) {
    std::vector<const tn_mask_term*> terms;
    for (const tn_mask_term& t : c_.mask) terms.push_back(&t);
    std::vector<int64_t> columns[6];
    for (const sdk::Segment& s : c_.segments) {
      const int64_t fields[6] = {s.q_begin, s.q_len, s.k_begin, s.k_len, s.q_pos, s.k_pos};
      for (int i = 0; i < 6; ++i) columns[i].push_back(fields[i]);
    }
    const tn_segments segments{sizeof segments,   static_cast<uint32_t>(c_.segments.size()),
                               columns[0].data(), columns[1].data(),
                               columns[2].data(), columns[3].data(),
                               columns[4].data(), columns[5].data()};
    const tn_attention_shape shape{sizeof shape,
                                   c_.phase,
                                   c_.partial ? uint32_t{TN_ATTENTION_PARTIAL} : 0,
                                   static_cast<uint32_t>(terms.size()),
                                   c_.batch,
                                   c_.t_q,
                                   c_.t_k,
                                   c_.q_pos,
                                   c_.k_pos,
                                   terms.data(),
                                   c_.segments.empty() ? nullptr : &segments,
                                   c_.dtype,
                                   {},
                                   c_.state_tokens};
    return f(&shape);
  }
  template <class Pass>
  int32_t run(Pass pass, tn_estimate tn_attention_plan::*estimate) {
    tn_attention_plan p{};
    p.struct_size = sizeof p;
    if (const int32_t status = plan(p); status < 0) return status;
    omp_set_num_threads(threads);
    sdk::testing::Exec exec((p.*estimate).workspace_bytes - workspace_shortfall);
    const tn_attention_call call{sizeof call, 0, exec.get(), c_.dropout, rng, 0};
    const int32_t status = with_shape([&](const tn_attention_shape* shape) {
      return bindings.with(
          [&](const tn_port_bind* const* binds, uint64_t n) { return pass(self_, &call, shape, binds, n); });
    });
    EXPECT_TRUE(exec.intact()) << "the workspace was written past its end";
    for (auto& [port, tensor] : bindings.tensors)
      EXPECT_TRUE(tensor.intact()) << "port " << port << " was written past its end";
    return status;
  }

  inline static int threads_ = 1;
  Case c_;
  sdk::testing::FakeHost host_;
  const tn_plugin& plugin_;
  const tn_attention_api* api_;
  tn_attention_config config_;
  tn_attention* self_ = nullptr;
};

// The largest difference relative to the largest magnitude; infinities must agree.
inline double error(const std::vector<float>& got, const std::vector<double>& want) {
  EXPECT_EQ(got.size(), want.size());
  double worst = 0, top = 0.1;  // where the exact answer is 0, the difference itself counts
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::isinf(want[i])) {
      EXPECT_EQ(static_cast<double>(got[i]), want[i]) << "at " << i;
      continue;
    }
    EXPECT_TRUE(std::isfinite(got[i])) << "at " << i << ": " << got[i];
    top = std::max(top, std::abs(want[i])), worst = std::max(worst, std::abs(got[i] - want[i]));
  }
  return worst / top;
}

inline void expect_forward(Runner& run, double tolerance) {
  ASSERT_EQ(run.forward(), TN_OK) << run.error();
  const auto want = run.dense().forward();
  EXPECT_LT(error(run.values(TN_PORT_O), want.o), tolerance);
  EXPECT_LT(error(run.values(TN_PORT_LSE), want.lse), std::max(tolerance, 1e-5));
}

inline void expect_backward(Runner& run, const Case& c, double tolerance) {
  ASSERT_EQ(run.forward(), TN_OK) << run.error();
  ASSERT_EQ(run.backward(), TN_OK) << run.error();
  const auto want = run.dense().backward(widen(run.values(TN_PORT_DO)),
                                         c.d_lse ? widen(run.values(TN_PORT_D_LSE)) : std::vector<double>{});
  EXPECT_LT(error(run.values(TN_PORT_DQ), want.dq), tolerance);
  EXPECT_LT(error(run.values(TN_PORT_DK), want.dk), tolerance);
  EXPECT_LT(error(run.values(TN_PORT_DV), want.dv), tolerance);
  if (c.sink_logit) {
    EXPECT_LT(error(run.values(TN_PORT_D_SINK_LOGIT), want.d_sink_logit), tolerance);
  }
}

using Objects = ::testing::TestWithParam<std::string>;

}  // namespace tenon::sdk::testing::attention
