// A small network beside a frozen backbone (LST, Sung et al. 2022; QST, Zhang et al. 2024): it reads the embedding's output h_0 and every
// block's output h_i, and no gradient ever goes back through the backbone.
//
//   g ← D_0(h_0);  for each block i: g ← μ_i ⊙ g + (1 − μ_i) ⊙ D_i(h_i),  g ← Block_i(g);  out from norm(g) [and norm(h_L)]
//
// Down-samplers D: d → q → d/ρ in two factors, dense with a bias, or the mean of ρ neighbouring channels. What they need of h_i for their
// gradient is either kept, or found again by running the backbone forward once more.
#pragma once

#include <map>

#include "sdk/adapter/activation.h"
#include "sdk/adapter/initial.h"
#include "sdk/adapter/region.h"
#include "sdk/adapter/rows.h"
#include "sdk/adapter/side_kernels.h"
#include "sdk/adapter/side_units.h"
#include "sdk/workspace.h"

namespace tenon::sdk {

enum class Down { kFactors, kDense, kPool };
enum class Taps { kKept, kRerun };
enum class SideStart { kFresh, kEven, kRanked };  // of side blocks: at random, or the backbone's units, evenly spread or of the largest magnitudes

struct SideSettings {
  int64_t reduction = 16, inner = 16;
  Down down = Down::kFactors;
  Taps taps = Taps::kKept;
  bool silu = false;            // between the two factors
  bool freeze_first = false;    // of two factors: the gradient then needs U_i alone
  bool tie_first_taps = false;  // D_1 serves h_0 too
  bool vector_gate = true;      // one gate per channel, or one per block
  double gate_temperature = 1, gate_start = 0.5;
  bool gate_after = false;      // the block before the gate instead of after it
  bool mix_output = true;       // (1 − a) U(norm(g)) + a norm(h_L), a = sigmoid(logit); else U(norm(g)) + bias
  double output_logit = 6;
  SideStart start = SideStart::kFresh;
  std::vector<int64_t> dropped;  // blocks without a side block
};

class SideNetwork {
 public:
  SideNetwork(const char* name, const SideSettings& settings) : name_(name), s_(settings) {}

  void bind(const tn_region_model& model, const tn_region_sink& sink);
  void init(const tn_exec* exec, uint32_t param, const tn_base_linear* base, const tn_rng& rng, tn_tensor& value) const;
  void forward(const Region& r, const tn_tensor& x, tn_tensor& y);
  void backward(const Region& r, const tn_tensor& dy);

 private:
  struct Sampler {  // ids of its parameters
    uint32_t first = 0, second = 0, bias = 0;
  };
  struct Level {
    Sampler down;
    uint32_t gate = 0;
    RegionDeclarer::Added block{};
    bool dropped = false;
  };
  // What one level leaves for backward.
  struct Trace {
    tn_tensor *h = nullptr, *u = nullptr, *d = nullptr, *g = nullptr, *du = nullptr;  // tap, h Pᵀ, D(h), the state before the gate
    uint64_t token = 0;
  };
  enum class Kind { kFactor, kZero, kGate, kOne, kLogit, kBlockNorm, kBlockLinear };
  struct Start {
    Kind kind;
    int64_t fan_in = 1;
    int slot = 0;  // of a block's linear: q, k, v, o, gate, up, down; −1: a norm
    int32_t block = 0;
  };

  Sampler declare_sampler(RegionDeclarer& declare, const std::string& key);
  tn_tensor* active(const Region& r, const tn_tensor& u) const;
  tn_tensor* down(const Region& r, const Sampler& p, const tn_tensor& h, Trace& t) const;
  void down_backward(const Region& r, const Sampler& p, const tn_tensor& dd, Trace& t) const;
  void first_factor_gradient(const Region& r, const Sampler& p, const tn_tensor& h, Trace& t) const;
  side::Gate gate(const Region& r, const Level& level) const;
  const side::Units& units(const tn_exec* exec, int32_t block) const;
  void copy_linear(const tn_exec* exec, int slot, const side::Units& units, const tn_base_linear& base, tn_tensor& value) const;
  bool needs_taps() const { return s_.down == Down::kDense || (s_.down == Down::kFactors && !s_.freeze_first); }

  std::string name_;
  SideSettings s_;
  tn_region_model model_{};
  int64_t side_ = 0, heads_ = 0, kv_heads_ = 0, head_dim_ = 0, intermediate_ = 0;
  std::vector<Level> levels_;  // of blocks 1 … L
  Sampler entry_;
  uint32_t norm_ = 0, up_ = 0, up_bias_ = 0, logit_ = 0;
  std::vector<Start> starts_;
  mutable std::map<int32_t, side::Units> units_;  // of blocks that were copied so far
  mutable std::vector<int32_t> hidden_;           // ranked, once for all of them

  // From a forward to its backward.
  std::vector<Trace> traces_;
  Trace entry_trace_;
  tn_tensor *x_ = nullptr, *last_ = nullptr, *last_rstd_ = nullptr, *normed_ = nullptr, *top_ = nullptr, *lifted_ = nullptr;
};

}  // namespace tenon::sdk

#include "sdk/adapter/side_bind.h"
#include "sdk/adapter/side_pass.h"
