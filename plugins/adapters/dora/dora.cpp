// DoRA: Weight-Decomposed Low-Rank Adaptation (Liu et al. 2024).
//
//   V = W + s B A,  ν_i = ‖V_i‖ over the inputs,  c = g/ν,  Z = X Wᵀ + s (X Aᵀ) Bᵀ,  Y = c ⊙ Z + bias
//   dZ = c ⊙ dY gives the gradients of LoRA,  dg_i = Σ_t dY_ti Z_ti / ν_i;  ν is a constant unless norm_grad.
//
// V is never formed: ν comes from W Aᵀ, which is the base applied to the r rows of A, and from ‖w_i‖², taken once.
#include <vector>

#include "kernels.h"
#include "sdk/adapter.h"
#include "sdk/adapter/base.h"
#include "sdk/adapter/declare.h"
#include "sdk/adapter/initial.h"
#include "sdk/adapter/low_rank.h"
#include "sdk/adapter/sites.h"
#include "sdk/adapter/targets.h"

namespace tenon::dora {
namespace {

enum Slot : uint32_t { kZ = 2, kInverse = 3 };  // after those of LowRank
enum Place : size_t { kA, kB, kMagnitude, kSquares };

constexpr tn_hyper_info kNormGrad =
    flag("norm_grad", "false", "differentiate through the row norms too, which the reference holds constant");
constexpr const tn_hyper_info* kHypers[] = {&kLoraRank,    &kLoraAlpha,      &kLoraDropout, &kRsLora,
                                            &kLoraTargets, &kExcludeModules, &kModulesToSave, &kLoraInit,    &kNormGrad};

LoraConfig config_from(const tn_host* host, const Hypers& hypers, const char* json) {
  LoraConfig c = json ? lora_config_from(json, host, true) : lora_config_from(hypers);
  if (!json) read_modules_to_save(hypers, c);
  c.dora = true;
  return c;
}

class Dora {
 public:
  static constexpr uint32_t kCaps = TN_ADAPTER_MERGES | TN_ADAPTER_SURROGATE_GRADIENT;

  Dora(const tn_host* host, const Hypers& hypers, const char* config_json)
      : config_(config_from(host, hypers, config_json)),
        norm_grad_(hypers.flag("norm_grad")),
        targets_(config_.selection),
        dropout_(config_.dropout) {}

  void supports(const tn_query& q) {
    if (!same(q.compute, kF32) && !same(q.compute, kBF16)) fail(TN_E_UNSUPPORTED, "dora computes in f32 or bf16");
  }

  void bind(const tn_site* const* sites, uint64_t n, const tn_adapter_sink& sink) {
    uint32_t id = 0;
    targets_.refuse_lookups("dora", sites, n);
    for (uint64_t i = 0; i < n; ++i) {
      const tn_site& s = *sites[i];
      if (s.place != TN_PLACE_LINEAR || !targets_.takes(s)) continue;
      refuse_tying(config_, s);
      if (s.flags & (TN_LINEAR_ADAPTED | TN_LINEAR_OWNED))
        fail(TN_E_CONFLICT,
             std::string("dora rescales the output of ") + s.path +
                 ", so it must be the first adapter there; put it before the others or choose other target_modules");
      const int64_t r = targets_.rank_of(s.path, config_.r);
      sites_.add(s.id, {s.m, s.n, r, config_.scale(r, targets_.alpha_of(s.path, config_.alpha))});
      check(sink.site(sink.self, s.id, TN_RETAIN_ROWS));
      const auto at = static_cast<int32_t>(s.id);
      declare_param(sink, id++, at, kTrained, {r, s.n}, peft_key(s, "lora_A.weight"));
      declare_param(sink, id++, at, kTrained, {s.m, r}, peft_key(s, "lora_B.weight"));
      declare_param(sink, id++, at, kTrained, {s.m, 0}, peft_key(s, "lora_magnitude_vector"), 1, 0);
      declare_param(sink, id++, at, 0, {s.m, 0}, peft_key(s, "weight_sqnorm"));
      for (int k = 0; k < 4; ++k) ranks_.push_back(r);
    }
    if (sites_.empty()) targets_.none_taken(sites, n);
    train_modules_to_save(config_, targets_, sites, n, sink);
  }

  void estimate(const tn_device_api* api, tn_device* device, uint32_t site, int64_t rows, tn_dtype compute,
                bool backward, tn_estimate& out) {
    const LowRank& f = at(site);
    Scratch s(api, device, compute);
    if (backward)
      run_backward(s, f, nullptr, nullptr, Matrix::dense(nullptr, compute, rows, f.m), 0, nullptr);
    else
      run_forward(s, f, nullptr, nullptr, Matrix::dense(nullptr, compute, rows, f.n), nullptr);
    out.flops = s.flops();
    if (!backward) f.merge(s, f.a(nullptr), f.b(nullptr), 0, Matrix::dense(nullptr, std::min(rows, f.m), f.n));
    out.saved_bytes = backward ? 0
                               : f.saved_bytes(rows, compute) +
                                     aligned(static_cast<uint64_t>(rows * f.m * (compute.bits / 8))) + aligned(f.m * 4);
    out.state_bytes = static_cast<uint64_t>(f.r * (f.m + f.n) + 2 * f.m) * 4;
    out.workspace_bytes = aligned(s.peak());
    out.bytes_moved = static_cast<double>(rows) * static_cast<double>(3 * f.m + f.n) * compute.bits / 8;
  }

  void init_param(const tn_exec* exec, uint32_t param, const tn_base_linear* base, const tn_rng& rng,
                  tn_tensor& value) {
    if (param >= ranks_.size()) fail(TN_E_ARGUMENT, "dora has no parameter " + std::to_string(param));
    float* w = contiguous<float>(&value, "a parameter of dora");
    const int64_t n = count(value);
    switch (param % 4) {
      case kA:
        return init_factor(exec, rng, config_.init, true, ranks_[param], value.shape[1], w, n);
      case kB:
        return init_factor(exec, rng, config_.init, false, ranks_[param], value.shape[1], w, n);
      case kSquares:
        return row_sqnorm(exec, *base, w);
      default:
        row_sqnorm(exec, *base, w);
        return for_each(exec, n, [=] TN_KERNEL(int64_t i) { w[i] = std::sqrt(w[i]); });
    }
  }

  void forward(uint32_t site, const tn_adapter_call& call, const tn_base_linear& base, const tn_tensor& x,
               tn_tensor* y) {
    if (x.shape[0] == 0) return;
    Scratch s(*call.exec, x.dtype);
    run_forward(s, at(site), &call, &base, Matrix::of(x), y);
  }

  void backward(uint32_t site, const tn_adapter_call& call, const tn_base_linear& base, const tn_tensor& dy,
                double beta, tn_tensor* dx) {
    if (dy.shape[0] == 0) return;
    Scratch s(*call.exec, dy.dtype);
    run_backward(s, at(site), &call, &base, Matrix::of(dy), beta, dx);
  }

  void merge_rows(const tn_exec* exec, uint32_t site, const tn_param_view* const* params, uint64_t, int64_t begin,
                  int64_t, tn_tensor& w) {
    Scratch s(*exec, kF32);
    const Matrix rows = Matrix::of(w);
    at(site).merge(s, Matrix::of(*params[kA]->value), Matrix::of(*params[kB]->value), begin, rows);
    const float* g = contiguous<float>(params[kMagnitude]->value, "the magnitude") + begin;
    float* v = static_cast<float*>(rows.data);
    const int64_t n = rows.columns, stride = rows.row_stride;
    for_each_block(
        exec, rows.rows,
        [=] TN_KERNEL(const Block& b) {
          float* row = v + b.index * stride;
          const double squares = b.sum(n, [=](int64_t j) { return static_cast<double>(row[j]) * row[j]; });
          const float c = squares > 1e-30 ? static_cast<float>(g[b.index] / std::sqrt(squares)) : 0.0f;
          b.each(n, [=](int64_t j) { row[j] *= c; });
        },
        n);
  }

  void write_config(const tn_sink& sink) {
    const std::string text = to_json(config_);
    check(sink.write(sink.self, text.data(), text.size()));
  }

  // What serves the functions above, public for nvcc, which takes kernels nowhere else.

  struct Norms {
    Matrix h, bg;  // A Wᵀ + bias [r, m], B A Aᵀ [m, r]
    Matrix gram;   // A Aᵀ
  };

  Norms products(Scratch& s, const LowRank& f, const tn_adapter_call* call, const tn_base_linear* base) const {
    Norms p{s.matrix(kF32, f.r, f.m), s.matrix(kF32, f.m, f.r), s.matrix(kF32, f.r, f.r)};
    if (base) {
      const MatrixView a(f.a(call));
      MatrixView h(p.h);
      check(base->forward(base->self, &a.tensor, 1, 0, &h.tensor));
    }
    s.product(1, f.a(call), f.a(call).transposed(), 0, p.gram);
    s.product(1, f.b(call), p.gram, 0, p.bg);
    return p;
  }

  static const float* floats(const tn_adapter_call& call, Place place) {
    return contiguous<float>(call.params[place]->value, "a parameter of dora");
  }
  static const float* bias_of(const tn_base_linear& base) {
    return base.bias ? contiguous<float>(base.bias, "the bias") : nullptr;
  }

  void run_forward(Scratch& s, const LowRank& f, const tn_adapter_call* call, const tn_base_linear* base,
                   const Matrix& x, tn_tensor* y) const {
    const int64_t rows = x.rows;
    Matrix z = s.activations(rows, f.m);
    float* inverse = s.take<float>(f.m);
    if (call && (call->flags & TN_CALL_SAVE)) {
      const int64_t shape[2] = {rows, f.m};
      tn_tensor *saved_z = nullptr, *saved_inverse = nullptr;
      check(call->saver->alloc(call->saver->self, kZ, 2, shape, &x.dtype, &saved_z));
      check(call->saver->alloc(call->saver->self, kInverse, 1, shape + 1, &kF32, &saved_inverse));
      z = Matrix::of(*saved_z), inverse = data<float>(*saved_inverse);
    }
    const uint64_t mark = s.mark();
    const Norms p = products(s, f, call, base);
    if (call)
      inverse_norms(s.exec(), f.m, f.r, f.scale * call->scale, floats(*call, kSquares), floats(*call, kB),
                    static_cast<float*>(p.h.data), static_cast<float*>(p.bg.data), bias_of(*base), inverse);
    s.release(mark);

    const bool drops = call ? dropout_.drops(*call) : dropout_.on();
    Matrix input = x;
    if (drops) {
      input = s.activations(rows, f.n);
      if (call) dropout_.apply(*call, x, input, false);
    }
    if (call) {
      const MatrixView from(input);
      MatrixView to(z);
      check(base->forward(base->self, &from.tensor, 1, 0, &to.tensor));
      if (y && drops) {  // Y = X Wᵀ + bias + c ⊙ Z − dropout(X) Wᵀ
        const MatrixView whole(x);
        check(base->forward(base->self, &whole.tensor, 1, 0, y));
        add_shifted(s.exec(), z, -1, bias_of(*base), Matrix::of(*y));
      }
      if (base->bias) {
        const float* bias = bias_of(*base);
        subtract(s, z, bias);
      }
    }
    s.release(mark);
    f.forward(s, call, dropout_, x, &z);
    if (call && y)
      scale_columns(s.exec(), z, floats(*call, kMagnitude), inverse, 0, drops ? nullptr : bias_of(*base),
                    Matrix::of(*y), drops);
  }

  void run_backward(Scratch& s, const LowRank& f, const tn_adapter_call* call, const tn_base_linear* base,
                    const Matrix& dy, double beta, tn_tensor* dx) const {
    const bool drops = call ? dropout_.drops(*call) : dropout_.on();
    const Matrix dz = s.activations(dy.rows, f.m);
    double* dots = s.take<double>(f.m);
    const float *g = nullptr, *inverse = nullptr;
    if (call) {
      g = floats(*call, kMagnitude),
      inverse = contiguous<float>(saved(*call, kInverse)->tensor, "the saved norms");
      if (dx && drops)
        scale_columns(s.exec(), dy, g, inverse, 1, nullptr, dz);  // (c − 1) ⊙ dY, the part that meets dropout(X) Wᵀ
    }
    if (drops) {
      const uint64_t mark = s.mark();
      const Matrix wide = s.activations(dy.rows, f.n);
      if (dx) {
        MatrixView whole(dy), part(dz), to(wide);
        check(base->backward(base->self, &whole.tensor, 1, beta, dx));
        check(base->backward(base->self, &part.tensor, 1, 0, &to.tensor));
        dropout_.apply(*call, wide, Matrix::of(*dx), true);
      }
      s.release(mark);
    }
    if (call) {
      scale_columns(s.exec(), dy, g, inverse, 0, nullptr, dz);
      if (dx && !drops) {
        MatrixView through(dz);
        check(base->backward(base->self, &through.tensor, 1, beta, dx));
      }
      column_dots(s.exec(), dy, Matrix::of(*saved(*call, kZ)->tensor), dots);
      if (call->params[kMagnitude]->grad) {
        float* dg = contiguous<float>(call->params[kMagnitude]->grad, "the magnitude's gradient");
        for_each(s.exec(), f.m, [=] TN_KERNEL(int64_t i) { dg[i] += static_cast<float>(dots[i] * inverse[i]); });
      }
    }
    if (norm_grad_ && (!call || call->params[kB]->grad)) through_norms(s, f, call, base, g, inverse, dots);
    const Matrix to = dx ? Matrix::of(*dx) : Matrix::dense(nullptr, dy.dtype, dy.rows, f.n);
    f.backward(s, call, dropout_, dz, dx || !call ? &to : nullptr);
  }

  // The part of dA and dB that goes through ν: dV_i −= κ_i V_i with κ_i = g_i (Σ_t dY_ti Z_ti) / ν_i³.
  void through_norms(Scratch& s, const LowRank& f, const tn_adapter_call* call, const tn_base_linear* base,
                     const float* g, const float* inverse, const double* dots) const {
    const uint64_t mark = s.mark();
    const Norms p = products(s, f, call, base);
    const Matrix scaled = s.matrix(kF32, f.r, f.m), back = s.matrix(kF32, f.r, f.n), small = s.matrix(kF32, f.r, f.r);
    const double factor = f.scale * LowRank::strength(call);
    if (call) {
      const float *b = floats(*call, kB), *h = static_cast<float*>(p.h.data), *bg = static_cast<float*>(p.bg.data),
                  *bias = bias_of(*base);
      float *db = contiguous<float>(call->params[kB]->grad, "the gradient of B"),
            *kb = static_cast<float*>(scaled.data);
      const int64_t m = f.m, r = f.r;
      for_each(s.exec(), m, [=] TN_KERNEL(int64_t i) {
        const double kappa = g[i] * dots[i] * inverse[i] * inverse[i] * inverse[i];
        for (int64_t k = 0; k < r; ++k) {
          db[i * r + k] -=
              static_cast<float>(kappa * factor * (h[k * m + i] - (bias ? bias[i] : 0.0f) + factor * bg[i * r + k]));
          kb[k * m + i] = static_cast<float>(kappa * b[i * r + k]);
        }
      });
      MatrixView rows(scaled), out(back);
      check(base->backward(base->self, &rows.tensor, 1, 0, &out.tensor));
    }
    s.product(1, scaled, f.b(call), 0, small);
    s.product(factor, small, f.a(call), 1, back);
    if (call && call->params[kA]->grad) {
      float* da = contiguous<float>(call->params[kA]->grad, "the gradient of A");
      const float* from = static_cast<float*>(back.data);
      for_each(s.exec(), f.r * f.n, [=] TN_KERNEL(int64_t i) { da[i] -= static_cast<float>(factor * from[i]); });
    }
    s.release(mark);
  }

  static void subtract(Scratch& s, const Matrix& z, const float* bias) {
    const int64_t n = z.columns, stride = z.row_stride;
    TN_TYPED(T, z.dtype, "a product",
      T* out = static_cast<T*>(z.data);
      for_each(s.exec(), z.rows * n, [=] TN_KERNEL(int64_t i) {
        T& o = out[i / n * stride + i % n];
        o = from_float<T>(to_float(o) - bias[i % n]);
      }););
  }

  const LowRank& at(uint32_t site) const { return sites_.at(site); }

 private:
  LoraConfig config_;
  bool norm_grad_;
  Targets targets_;
  Dropout dropout_;
  Sites<LowRank> sites_{"dora"};
  std::vector<int64_t> ranks_;  // by parameter
};

constexpr tn_adapter_api kApi = adapter_api<Dora>();
constexpr tn_plugin kPlugin = describe(TN_KIND_ADAPTER, "dora", "0.9.0", kHypers, &kApi);

}  // namespace
}  // namespace tenon::dora

TENON_PLUGIN(tenon::dora::kPlugin)
