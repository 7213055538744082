// LoRA: Low-Rank Adaptation of Large Language Models (Hu et al. 2021), with rank-stabilised scaling (Kalajdzievski
// 2023).
//
//   U = dropout(X) A^T,  Y = X W^T + s U B^T (+ s b)
//   dB = s dY^T U,  dU = s dY B,  dA = dU^T dropout(X),  dX = dY W + mask/(1-p) ⊙ (dU A)
#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "config.h"
#include "sdk/adapter.h"
#include "sdk/for_each.h"
#include "sdk/philox.h"
#include "sdk/tensor.h"
#include "targets.h"

namespace tenon::lora {
namespace {

using namespace tenon::sdk;

enum Slot : uint32_t { kU = 0, kX = 1 };

constexpr tn_hyper_info kR = integer("r", "8", 1, 65536, nullptr, "rank of the two factors");
constexpr tn_hyper_info kAlpha = real("lora_alpha", "8", 0, kInfinity, TN_RANGE_OPEN_MIN | TN_RANGE_OPEN_MAX, nullptr,
                                      "the delta is scaled by lora_alpha / r");
constexpr tn_hyper_info kDropout =
    real("lora_dropout", "0", 0, 1, TN_RANGE_OPEN_MAX, nullptr, "share of the adapter's inputs dropped in training");
constexpr tn_hyper_info kRs = flag("use_rslora", "false", "scale by lora_alpha / sqrt(r)");
constexpr tn_hyper_info kTargets =
    text("target_modules", "q_proj+v_proj", "names joined by +, all-linear, or regex:EXPRESSION on whole module paths");
constexpr tn_hyper_info kExcluded =
    text("exclude_modules", "", "names joined by +, or regex:EXPRESSION, that are left out");
constexpr tn_hyper_info kInit = choice("init_lora_weights", "true", "true|gaussian|false",
                                       "start of A: Kaiming-uniform or N(0, 1/r²), B = 0; false: both random");
constexpr tn_hyper_info kBias = flag("lora_bias", "false", "a bias on the up-projection");
constexpr const tn_hyper_info* kHypers[] = {&kR, &kAlpha, &kDropout, &kRs, &kTargets, &kExcluded, &kInit, &kBias};

// A dense row-major matrix over memory that is known to be in place.
struct Matrix {
  int64_t shape[2], strides[2];
  tn_tensor t;
  Matrix(void* data, tn_device_id device, tn_dtype dtype, int64_t rows, int64_t columns)
      : shape{rows, columns}, strides{columns, 1} {
    t = {data, device, 2, dtype, shape, strides, 0};
  }
  explicit Matrix(const tn_tensor& from, bool transposed = false) {
    const int a = transposed ? 1 : 0;
    shape[0] = from.shape[a], shape[1] = from.shape[1 - a], strides[0] = from.strides[a],
    strides[1] = from.strides[1 - a];
    t = from;
    t.shape = shape, t.strides = strides;
  }
  Matrix(const Matrix&) = delete;
};

tn_gemm product(const Matrix& a, const Matrix& b, Matrix& c, double alpha, double beta, tn_dtype compute) {
  return {sizeof(tn_gemm), same(compute, kF32) ? uint32_t{TN_GEMM_EXACT} : 0u, &a.t, &b.t, &c.t, nullptr, alpha, beta,
          nullptr};
}

uint64_t aligned(uint64_t bytes) {
  return (bytes + TN_ALIGNMENT - 1) / TN_ALIGNMENT * TN_ALIGNMENT;
}

struct Site {
  int64_t m, n, r;
  double scale;
};

enum class Kind { kA, kB, kBias };
struct Param {
  Kind kind;
  int64_t rank;
};

// Of 65536: a probability is rounded to 16 bits and the survivors are scaled by the rounded one, so the expectation is
// exact.
uint32_t drop_threshold(double p) {
  return static_cast<uint32_t>(std::min(65535L, std::lround(p * 65536)));
}

class Lora {
 public:
  static constexpr uint32_t kCaps = TN_ADAPTER_MERGES;

  Lora(const tn_host* host, const Hypers& hypers, const char* config_json)
      : host_(host), config_(config_json ? from_json(config_json, host) : from_hypers(hypers)), targets_(config_) {}

  void supports(const tn_query& q) {
    if (!same(q.compute, kF32) && !same(q.compute, kBF16)) fail(TN_E_UNSUPPORTED, "lora computes in f32 or bf16");
  }

  void bind(const tn_site* const* sites, uint64_t n, const tn_adapter_sink& sink) {
    uint64_t wasteful = 0;
    for (uint64_t i = 0; i < n; ++i) {
      const tn_site& s = *sites[i];
      if (s.place != TN_PLACE_LINEAR || !targets_.takes(s)) continue;
      const std::string path = s.path;
      const int64_t r = targets_.rank_of(path);
      if (r > std::min(s.m, s.n)) ++wasteful;
      sites_[s.id] = {s.m, s.n, r, config_.scale(r, targets_.alpha_of(path))};
      check(sink.site(sink.self, s.id, TN_RETAIN_INPUT));
      const std::string key = "base_model.model." + path;
      declare(sink, s, {Kind::kA, r}, {r, s.n}, key + ".lora_A.weight");
      declare(sink, s, {Kind::kB, r}, {s.m, r}, key + ".lora_B.weight");
      if (config_.lora_bias) declare(sink, s, {Kind::kBias, r}, {s.m, 0}, key + ".lora_B.bias");
    }
    if (sites_.empty())
      fail(TN_E_NOT_FOUND, "target_modules " + targets_.described() +
                               " names no linear of this model (exclude_modules and layers_to_transform applied); " +
                               (n ? "one of them is " + std::string(sites[0]->path) : "it has none"));
    if (wasteful)
      host_->log(host_, TN_LOG_WARNING,
                 ("lora: the rank is larger than the smaller side of " + std::to_string(wasteful) +
                  " linears, where a smaller one can express as much")
                     .c_str());
  }

  void estimate(const tn_device_api* api, tn_device* device, uint32_t site, int64_t rows, tn_dtype compute,
                bool backward, tn_estimate& out) {
    const Site& s = at(site);
    const Layout l = layout(api, device, s, rows, compute);
    out.saved_bytes = backward ? 0 : aligned(static_cast<uint64_t>(rows * s.r * (compute.bits / 8)));
    out.state_bytes = static_cast<uint64_t>(s.r * (s.m + s.n) + (config_.lora_bias ? s.m : 0)) * 4;
    out.workspace_bytes = l.total;
    const double t = static_cast<double>(rows),
                 work = 2 * t * static_cast<double>(s.r) * static_cast<double>(s.m + s.n);
    out.flops = backward ? 2 * work : work;
    out.bytes_moved = t * static_cast<double>(2 * s.m + s.n) * compute.bits / 8;
  }

  void init_param(const tn_exec* exec, uint32_t param, const tn_base_linear*, const tn_rng& rng, tn_tensor& value) {
    if (param >= params_.size()) fail(TN_E_ARGUMENT, "lora has no parameter " + std::to_string(param));
    const Param p = params_[param];
    float* w = contiguous<float>(&value, "a LoRA factor");
    const int64_t n = count(value);
    if (p.kind != Kind::kA && config_.init != Init::kBothKaiming)
      return for_each(exec, n, [=](int64_t i) { w[i] = 0; });
    if (p.kind == Kind::kA && config_.init == Init::kGaussian) {
      const float deviation = 1.0f / static_cast<float>(p.rank);
      return for_each(exec, n, [=](int64_t i) { w[i] = deviation * normal(rng, i); });
    }
    const int64_t fan_in = p.kind == Kind::kA ? value.shape[1] : p.rank;
    const float bound = 1.0f / std::sqrt(static_cast<float>(fan_in));
    for_each(exec, n, [=](int64_t i) { w[i] = bound * (2 * uniform(rng, i) - 1); });
  }

  void forward(uint32_t site, const tn_adapter_call& call, const tn_base_linear& base, const tn_tensor& x,
               tn_tensor* y) {
    const Site& s = at(site);
    const int64_t rows = x.shape[0];
    const tn_exec& exec = *call.exec;
    if (y) check(base.forward(base.self, &x, 1, 0, y));
    if (rows == 0) return;
    const Layout l = layout(exec.api, exec.device, s, rows, x.dtype);
    char* memory = static_cast<char*>(exec.workspace);

    const bool drops = config_.dropout > 0 && (call.flags & TN_CALL_TRAIN);
    Matrix input(x), dropped(memory + l.wide, x.device, x.dtype, rows, s.n);
    if (drops) drop(exec, call, x, dropped.t, false);
    void* u_memory = memory + l.u;
    if (call.flags & TN_CALL_SAVE) {
      const int64_t shape[2] = {rows, s.r};
      tn_tensor* u = nullptr;
      check(call.saver->alloc(call.saver->self, kU, 2, shape, &x.dtype, &u));
      check(call.saver->keep_input(call.saver->self, kX));
      u_memory = sdk::data<char>(*u);
    }
    Matrix u(u_memory, x.device, x.dtype, rows, s.r);
    const Matrix a_t(*call.params[0]->value, true);
    multiply(exec, l, product(drops ? dropped : input, a_t, u, 1, 0, x.dtype));
    if (!y) return;
    const Matrix b_t(*call.params[1]->value, true);
    Matrix out(*y);
    multiply(exec, l, product(u, b_t, out, s.scale * call.scale, 1, x.dtype));
    if (config_.lora_bias) add_bias(exec, *call.params[2]->value, s.scale * call.scale, *y);
  }

  void backward(uint32_t site, const tn_adapter_call& call, const tn_base_linear& base, const tn_tensor& dy,
                double beta, tn_tensor* dx) {
    const Site& s = at(site);
    const int64_t rows = dy.shape[0];
    const tn_exec& exec = *call.exec;
    if (dx) check(base.backward(base.self, &dy, 1, beta, dx));
    if (rows == 0) return;
    const Layout l = layout(exec.api, exec.device, s, rows, dy.dtype);
    char* memory = static_cast<char*>(exec.workspace);
    const double scale = s.scale * call.scale;
    const bool drops = config_.dropout > 0 && (call.flags & TN_CALL_TRAIN);

    const Matrix out_grad(dy), out_grad_t(dy, true), a(*call.params[0]->value), b(*call.params[1]->value);
    Matrix du(memory + l.u, dy.device, dy.dtype, rows, s.r);
    multiply(exec, l, product(out_grad, b, du, scale, 0, dy.dtype));
    if (call.params[1]->grad) {
      const tn_saved* saved = nullptr;
      check(call.saver->get(call.saver->self, kU, &saved));
      const Matrix u(*saved->tensor);
      Matrix db(*call.params[1]->grad);
      multiply(exec, l, product(out_grad_t, u, db, scale, 1, dy.dtype));
    }
    if (call.params[0]->grad) {
      const tn_saved* saved = nullptr;
      check(call.saver->get(call.saver->self, kX, &saved));
      Matrix wide(memory + l.wide, dy.device, dy.dtype, rows, s.n);
      if (drops) drop(exec, call, *saved->tensor, wide.t, false);
      const Matrix x(drops ? wide.t : *saved->tensor), du_t(du.t, true);
      Matrix da(*call.params[0]->grad);
      multiply(exec, l, product(du_t, x, da, 1, 1, dy.dtype));
    }
    if (config_.lora_bias && call.params[2]->grad) bias_gradient(exec, dy, scale, *call.params[2]->grad);
    if (!dx) return;
    if (!drops) {
      Matrix d_input(*dx);
      return multiply(exec, l, product(du, a, d_input, 1, 1, dy.dtype));
    }
    Matrix wide(memory + l.wide, dy.device, dy.dtype, rows, s.n);
    multiply(exec, l, product(du, a, wide, 1, 0, dy.dtype));
    drop(exec, call, wide.t, *dx, true);
  }

  void merge_rows(const tn_exec* exec, uint32_t site, const tn_param_view* const* params, uint64_t, int64_t begin,
                  int64_t end, tn_tensor& w) {
    const Site& s = at(site);
    if (config_.lora_bias)
      fail(TN_E_UNSUPPORTED,
           "an adapter with lora_bias cannot be merged, since the base linear has no bias to take it");
    const float* b = contiguous<float>(params[1]->value, "lora_B") + begin * s.r;
    const Matrix up(const_cast<float*>(b), w.device, kF32, end - begin, s.r), a(*params[0]->value);
    Matrix out(w);
    const tn_gemm g = product(up, a, out, s.scale, 1, kF32);
    check(exec->api->gemm(exec->device, exec->stream, &g, exec->workspace, exec->workspace_bytes));
  }

  void write_config(const tn_sink& sink) {
    const std::string text = to_json(config_);
    check(sink.write(sink.self, text.data(), text.size()));
  }

 private:
  // Workspace of one call: U or dU, one [T, n] matrix where dropout needs it, and the largest product's own.
  struct Layout {
    uint64_t u, wide, gemm, gemm_bytes, total;
  };

  Layout layout(const tn_device_api* api, tn_device* device, const Site& s, int64_t rows, tn_dtype compute) const {
    const uint64_t element = compute.bits / 8;
    Layout l{};
    l.wide = aligned(static_cast<uint64_t>(rows * s.r) * element);
    l.gemm = l.wide + (config_.dropout > 0 ? aligned(static_cast<uint64_t>(rows * s.n) * element) : 0);
    const tn_device_id cpu{TN_CPU, 0};
    Matrix x(nullptr, cpu, compute, rows, s.n), y(nullptr, cpu, compute, rows, s.m),
        u(nullptr, cpu, compute, rows, s.r);
    Matrix a(nullptr, cpu, kF32, s.r, s.n), b(nullptr, cpu, kF32, s.m, s.r), w(nullptr, cpu, kF32, rows, s.n);
    Matrix up(nullptr, cpu, kF32, rows, s.r);
    const Matrix a_t(a.t, true), b_t(b.t, true), y_t(y.t, true), u_t(u.t, true);
    for (const tn_gemm& g :
         {product(x, a_t, u, 1, 0, compute), product(u, b_t, y, 1, 1, compute), product(y, b, u, 1, 0, compute),
          product(y_t, u, b, 1, 1, compute), product(u_t, x, a, 1, 1, compute), product(u, a, x, 1, 1, compute),
          product(up, a, w, 1, 1, kF32)}) {
      uint64_t bytes = 0;
      check(api->gemm_workspace(device, &g, &bytes));
      l.gemm_bytes = std::max(l.gemm_bytes, bytes);
    }
    l.total = l.gemm + aligned(l.gemm_bytes);
    return l;
  }

  void multiply(const tn_exec& exec, const Layout& l, const tn_gemm& g) const {
    check(exec.api->gemm(exec.device, exec.stream, &g, static_cast<char*>(exec.workspace) + l.gemm, l.gemm_bytes));
  }

  const Site& at(uint32_t site) const {
    const auto it = sites_.find(site);
    if (it == sites_.end()) fail(TN_E_ARGUMENT, "lora did not take site " + std::to_string(site));
    return it->second;
  }

  void declare(const tn_adapter_sink& sink, const tn_site& site, Param param, std::array<int64_t, 2> shape,
               const std::string& key) {
    const tn_adapter_param p{sizeof(tn_adapter_param),
                             static_cast<uint32_t>(params_.size()),
                             static_cast<int32_t>(site.id),
                             TN_ADAPTER_PARAM_TRAINABLE | TN_ADAPTER_PARAM_SAVED,
                             shape[1] ? 2 : 1,
                             0,
                             {shape[0], shape[1], 0, 0},
                             1,
                             1,
                             key.c_str()};
    check(sink.param(sink.self, &p));
    params_.push_back(param);
  }

  // to = mask/(1-p) ⊙ from, or to += it; element index = global row · width + column, so tiles replay the same mask.
  void drop(const tn_exec& exec, const tn_adapter_call& call, const tn_tensor& from, tn_tensor& to, bool add) const {
    const int64_t rows = from.shape[0], n = from.shape[1], from_stride = from.strides[0], to_stride = to.strides[0],
                  first = call.row_begin;
    const tn_rng rng = call.rng;
    const uint32_t threshold = drop_threshold(config_.dropout);
    const float keep = 65536.0f / static_cast<float>(65536 - threshold);
    with_float_type(from.dtype, "the adapter's input", [&](auto tag) {
      using T = decltype(tag);
      const T* in = sdk::data<T>(from);
      T* out = sdk::data<T>(to);
      for_each(&exec, rows * n, [=](int64_t i) {
        const int64_t row = i / n, column = i % n;
        const bool kept = noise16(rng, static_cast<uint64_t>((first + row) * n + column)) >= threshold;
        const float v = kept ? keep * to_float(in[row * from_stride + column]) : 0.0f;
        T& o = out[row * to_stride + column];
        o = from_float<T>(add ? to_float(o) + v : v);
      });
    });
  }

  void add_bias(const tn_exec& exec, const tn_tensor& bias, double scale, tn_tensor& y) const {
    const float* b = contiguous<float>(&bias, "lora_B.bias");
    const int64_t rows = y.shape[0], m = y.shape[1], stride = y.strides[0];
    const float s = static_cast<float>(scale);
    with_float_type(y.dtype, "the adapter's output", [&](auto tag) {
      using T = decltype(tag);
      T* out = sdk::data<T>(y);
      for_each(&exec, rows * m, [=](int64_t i) {
        T& o = out[i / m * stride + i % m];
        o = from_float<T>(to_float(o) + s * b[i % m]);
      });
    });
  }

  void bias_gradient(const tn_exec& exec, const tn_tensor& dy, double scale, tn_tensor& grad) const {
    float* g = contiguous<float>(&grad, "the gradient of lora_B.bias");
    const int64_t rows = dy.shape[0], m = dy.shape[1], stride = dy.strides[0];
    with_float_type(dy.dtype, "the adapter's output gradient", [&](auto tag) {
      using T = decltype(tag);
      const T* d = sdk::data<T>(dy);
      for_each(&exec, m, [=](int64_t j) {
        double sum = 0;
        for (int64_t t = 0; t < rows; ++t) sum += to_float(d[t * stride + j]);
        g[j] += static_cast<float>(scale * sum);
      });
    });
  }

  const tn_host* host_;
  Config config_;
  Targets targets_;
  std::map<uint32_t, Site> sites_;
  std::vector<Param> params_;  // by id
};

constexpr tn_adapter_api kApi = adapter_api<Lora>();
constexpr tn_plugin kPlugin = describe(TN_KIND_ADAPTER, "lora", "0.9.0", kHypers, &kApi);

}  // namespace
}  // namespace tenon::lora

TENON_PLUGIN(tenon::lora::kPlugin)
