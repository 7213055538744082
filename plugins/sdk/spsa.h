// Simultaneous perturbation (Spall 1992): the engine of zeroth-order optimizers over org.tenon.drive/1.
//
// A step draws q noise vectors z, asks for the losses at w ± eps z (or w + eps z and w) on the same data, and moves
// w ← w − lr (Σ g z / q + weight_decay · w), g = (L+ − L−) / (2 eps) in f64. Nothing is stored between steps: z follows from (seed of
// the run, step, probe, uid, element), so the log of g rebuilds the model from its start.
#pragma once

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "sdk/noise.h"
#include "sdk/optimizer.h"
#include "sdk/parameters.h"
#include "tenon/drive.h"

namespace tenon::sdk {

struct SpsaSettings {
  double eps = 1e-3, weight_decay = 0;
  double clip = __builtin_huge_val();  // of |g|
  int64_t probes = 1;
  bool two_sided = true, relative = false;
  Noise noise = Noise::kNormalTable;
};

inline Noise noise_named(std::string_view name) {
  return name == "rademacher" ? Noise::kRademacher : name == "normal" ? Noise::kNormal : Noise::kNormalTable;
}
template <class F>
void with_noise(Noise noise, F&& f) {
  switch (noise) {
    case Noise::kNormal: return f.template operator()<Noise::kNormal>();
    case Noise::kNormalTable: return f.template operator()<Noise::kNormalTable>();
    case Noise::kRademacher: return f.template operator()<Noise::kRademacher>();
  }
}

// The seed of a step's noise, apart from every other use of the run's seed (splitmix64).
inline uint64_t spsa_seed(uint64_t run_seed, int64_t step) {
  uint64_t x = run_seed + 0x9E3779B97F4A7C15u * (static_cast<uint64_t>(step) + 0x7A65726F746801u);
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u, x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  return x ^ x >> 31;
}

class Spsa {
 public:
  explicit Spsa(const SpsaSettings& settings) : s_(settings) {}

  void drive(const tn_step& step, const tn_driver& driver, tn_driven& out) {
    seed_ = spsa_seed(step.seed, step.step);
    const size_t q = static_cast<size_t>(s_.probes);
    // Two displacements a probe, or one each and the start.
    std::vector<tn_term> terms;
    for (size_t i = 0; i < q; ++i)
      for (const double sign : {1.0, -1.0}) terms.push_back({TN_SIZE_TO(tn_term, coef), static_cast<uint32_t>(i), seed_, sign * s_.eps});
    std::vector<const tn_term*> pointers;
    for (const tn_term& t : terms) pointers.push_back(&t);
    std::vector<tn_displacement> at;
    for (size_t i = 0; i < q; ++i) {
      at.push_back({TN_SIZE_TO(tn_displacement, terms), 1, &pointers[2 * i]});
      if (s_.two_sided) at.push_back({TN_SIZE_TO(tn_displacement, terms), 1, &pointers[2 * i + 1]});
    }
    if (!s_.two_sided) at.push_back({TN_SIZE_TO(tn_displacement, terms), 0, nullptr});
    std::vector<const tn_displacement*> list;
    for (const tn_displacement& d : at) list.push_back(&d);
    std::vector<double> losses(list.size());
    check(driver.losses(driver.self, list.data(), list.size(), losses.data()));

    gradients_.clear();
    clipped_ = 0;
    double sum = 0;
    bool finite = true;
    for (const double l : losses) sum += l, finite = finite && std::isfinite(l);
    out.loss = s_.two_sided ? sum / static_cast<double>(losses.size()) : losses.back();
    if (!finite) {
      out.flags |= TN_DRIVEN_SKIP;
      return;
    }
    for (size_t i = 0; i < q; ++i) {
      const double g = s_.two_sided ? (losses[2 * i] - losses[2 * i + 1]) / (2 * s_.eps) : (losses[i] - losses.back()) / s_.eps;
      clipped_ += std::fabs(g) > s_.clip;
      gradients_.push_back(std::fmin(std::fmax(g, -s_.clip), s_.clip));
    }
    plus_ = losses[0], minus_ = s_.two_sided ? losses[1] : losses.back();
  }

  void perturb(const tn_exec* exec, uint32_t uid, const tn_tensor& param, const tn_displacement& at, int64_t begin, int64_t end, tn_tensor& out) const {
    if (begin < 0 || end < begin || end > count(param) || count(out) != end - begin)
      fail(TN_E_ARGUMENT, "a displaced range [" + std::to_string(begin) + ", " + std::to_string(end) + ") does not fit its parameter or its output");
    NoiseTerms terms;
    for (uint32_t i = 0; i < at.n_terms; ++i) terms.add(at.terms[i]->seed, uid, at.terms[i]->stream, at.terms[i]->coef);
    const auto run = [&]<class From, class To>(From, To) {
      with_noise(s_.noise, [&]<Noise kKind>() {
        displace<kKind>(exec, terms, normal_table(), s_.relative, contiguous<From>(&param, "a parameter"), begin, end, contiguous<To>(&out, "a displaced range"));
      });
    };
    const bool from_f32 = same(param.dtype, kF32), to_f32 = same(out.dtype, kF32);
    if (from_f32 && to_f32)
      run(float{}, float{});
    else if (from_f32)
      run(float{}, bf16{});
    else if (to_f32)
      run(bf16{}, float{});
    else
      run(bf16{}, bf16{});
  }

  // decays: whether this parameter decays at all.
  void update(const tn_exec* exec, const tn_item& item, bool decays) const {
    if (gradients_.empty()) fail(TN_E_STATE, "apply needs the losses of this step; call drive first");
    NoiseTerms terms;
    const double share = item.lr / static_cast<double>(gradients_.size());
    for (size_t i = 0; i < gradients_.size(); ++i) terms.add(seed_, item.uid, static_cast<uint32_t>(i), share * gradients_[i]);
    const double decay = decays ? item.lr * s_.weight_decay * item.decay_scale : 0;
    with_noise(s_.noise, [&]<Noise kKind>() {
      noise_update<kKind>(exec, terms, normal_table(), s_.relative, static_cast<float>(decay), count(*item.param), weight_of(item));
    });
  }

  void report(tn_advice& advice) const {
    if (gradients_.empty()) return;
    const auto tell = [&](const char* name, double value) { check(advice.metric(advice.self, name, value)); };
    for (size_t i = 0; i < gradients_.size(); ++i)
      tell(i == 0 ? "projected_grad" : ("projected_grad" + std::to_string(i + 1)).c_str(), gradients_[i]);
    tell("loss_plus", plus_), tell("loss_minus", minus_);
    if (s_.clip < __builtin_huge_val()) tell("clipped", static_cast<double>(clipped_));
  }
  const std::vector<double>& gradients() const { return gradients_; }
  const SpsaSettings& settings() const { return s_; }

 private:
  SpsaSettings s_;
  uint64_t seed_ = 0;
  std::vector<double> gradients_;  // of this step's probes, clipped
  int64_t clipped_ = 0;
  double plus_ = 0, minus_ = 0;
};

// tn_drive over a rule with drive(step, driver, out) and perturb(exec, uid, param, at, begin, end, out).
template <class T>
constexpr tn_drive drive_table() {
  using F = OptimizerThunks<T>;
  return {TN_SIZE_TO(tn_drive, perturb), 0,
          [](tn_optimizer* self, const tn_step* step, const tn_driver* driver, tn_driven* out) -> int32_t {
            return guard(F::of(self)->host, [&] { F::of(self)->rule.drive(*step, *driver, *out); });
          },
          [](tn_optimizer* self, const tn_exec* exec, uint32_t uid, const tn_tensor* param, const tn_displacement* at, int64_t begin, int64_t end,
             tn_tensor* out) -> int32_t {
            return guard(F::of(self)->host, [&] { F::of(self)->rule.perturb(exec, uid, *param, *at, begin, end, *out); });
          }};
}

inline constexpr tn_hyper_info kHyperZoEps =
    real("eps", "1e-3", 0, kInfinity, TN_RANGE_OPEN_MIN | TN_RANGE_OPEN_MAX, nullptr, "length of a probe along z");
inline constexpr tn_hyper_info kHyperProbes = integer("q", "1", 1, 16, "probes", "noise vectors a step, averaged; each costs two forward passes");
inline constexpr tn_hyper_info kHyperDist = choice("dist", "normal_table", "normal_table|normal|rademacher",
                                                   "noise: normal from a table (equal on every backend), Box-Muller, or signs (fastest)");
inline constexpr tn_hyper_info kHyperSide = choice("side", "two", "two|one", "losses at w ± eps z, or at w + eps z and w");

// What every such optimizer reads of the keys above.
inline SpsaSettings spsa_settings(const Hypers& h) {
  return {.eps = h.real("eps"), .probes = h.integer("q"), .two_sided = h.text("side") == "two", .noise = noise_named(h.text("dist"))};
}

// The whole of an optimizer that is one set of these settings. Norms and biases never decay.
class ZerothOrder {
 public:
  static constexpr uint32_t kCaps = TN_OPTIMIZER_ONE_AT_A_TIME | TN_OPTIMIZER_ROWWISE | TN_OPTIMIZER_ELEMENTWISE;

  ZerothOrder(const char* id, const SpsaSettings& settings) : id_(id), spsa_(settings) {}

  void supports(const tn_query& q) const { supports_dense(id_, q); }
  void bind(const tn_param* const* params, uint64_t n) { parameters_.bind(id_, params, n); }
  void state_layout(uint32_t uid, const tn_state_sink&) const { parameters_.at(uid); }
  void estimate(const tn_device_api*, tn_device*, uint32_t uid, tn_estimate& out) const {
    const auto& [p, n] = parameters_.at(uid);
    out.flops = (2 + noise_operations(spsa_.settings().noise)) * static_cast<double>(spsa_.settings().probes * n);
    out.bytes_moved = 2.0 * static_cast<double>(n) * p.dtype.bits / 8;
  }
  void drive(const tn_step& step, const tn_driver& driver, tn_driven& out) { spsa_.drive(step, driver, out); }
  void perturb(const tn_exec* exec, uint32_t uid, const tn_tensor& param, const tn_displacement& at, int64_t begin, int64_t end, tn_tensor& out) const {
    parameters_.at(uid);
    spsa_.perturb(exec, uid, param, at, begin, end, out);
  }
  void apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) const {
    for (uint64_t i = 0; i < n; ++i) {
      const uint32_t role = parameters_.check(*items[i]).info.role;
      spsa_.update(exec, *items[i], role != TN_ROLE_NORM && role != TN_ROLE_BIAS);
    }
  }
  void finish(const tn_step&, tn_advice& advice) const { spsa_.report(advice); }

 private:
  const char* id_;
  Spsa spsa_;
  Parameters parameters_;
};

}  // namespace tenon::sdk
