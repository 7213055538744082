// MEFT: Make Pre-trained Model Reversible (Liao et al. 2023).
//
//   y1 = λ x1 + F(x2),  y2 = β x2 + G(y1);  variants 1 and 2 go on with (y2, y1), variant 3 with (y1, y2); out = (x1 + x2)/2
//   1: F = block with an adapter beside its MLP, G = adapter;  2: F = adapter, G = such a block
//   3: F = attention half with an adapter on what attention adds, G = MLP half with an adapter beside it
//
// Backward begins with the last pair: G(y1) is computed again, x2 = (y2 − G)/β, then F(x2), x1 = (y1 − F)/λ. Streams are f32.
// A block's inversion multiplies rounding errors by 1/(λβ) and more, so forward keeps a pair every few blocks (anchors), from which inversion begins anew.
#include <cmath>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "bottleneck.h"
#include "sdk/adapter/settings.h"

namespace tenon::meft {
namespace {

constexpr tn_hyper_info kVariant = choice("variant", "1", "1|2|3", "which halves are the block and which the adapter");
constexpr tn_hyper_info kLambda = real("lambda", "0", 0, 10, 0, nullptr, "weight of the first stream; 0: the variant's own (0.1, 1, 0.1)");
constexpr tn_hyper_info kBeta = real("beta", "0", 0, 10, 0, nullptr, "weight of the second stream; 0: the variant's own (1, 0.1, 0.1)");
constexpr tn_hyper_info kWidth = integer("bottleneck", "8", 1, 65536, nullptr, "width of the adapters");
constexpr tn_hyper_info kDropout = real("dropout", "0", 0, 1, TN_RANGE_OPEN_MAX, nullptr, "share of the adapters' activations that is dropped in training");
constexpr tn_hyper_info kBlocks = integer("reversible_blocks", "0", 0, 65536, nullptr, "how many blocks are reversible; 0: all");
constexpr tn_hyper_info kWhere = choice("where", "lowest", "lowest|highest", "which of the blocks, where not all");
constexpr tn_hyper_info kAnchors = integer("anchor_every", "0", 0, 65536, nullptr, "blocks between two kept pairs of streams; 0: as many as rounding allows");
constexpr const tn_hyper_info* kHypers[] = {&kVariant, &kLambda, &kBeta, &kWidth, &kDropout, &kBlocks, &kWhere, &kAnchors};

constexpr double kStreamError = 1e-3;  // relative, of a stream found again by inversion

class Meft {
 public:
  static constexpr uint32_t kCaps = 0;

  Meft(const tn_host* host, const Hypers& hypers, const char* config_json) : settings_(host, hypers, kHypers, config_json, "MEFT") {
    variant_ = settings_.text("variant")[0] - '0';
    const double own_lambda = variant_ == 2 ? 1 : 0.1, own_beta = variant_ == 1 ? 1 : 0.1;
    lambda_ = settings_.real("lambda") > 0 ? settings_.real("lambda") : own_lambda;
    beta_ = settings_.real("beta") > 0 ? settings_.real("beta") : own_beta;
  }

  void supports(const tn_query& q) {
    if (!same(q.compute, kF32) && !same(q.compute, kBF16)) fail(TN_E_UNSUPPORTED, "meft computes in f32 or bf16");
  }

  void bind_region(const tn_region_model& model, const tn_region_sink& sink) {
    const int64_t asked = settings_.integer("reversible_blocks"), blocks = model.n_blocks;
    if (asked > blocks)
      fail(TN_E_ARGUMENT, "meft: reversible_blocks is " + std::to_string(asked) + " but the model has " + std::to_string(blocks) + " blocks");
    const int64_t n = asked == 0 ? blocks : asked;
    first_ = settings_.text("where") == "highest" ? blocks - n : 0, last_ = first_ + n, blocks_ = blocks;
    distance_ = settings_.integer("anchor_every") > 0 ? settings_.integer("anchor_every") : blocks_within_error(n);
    RegionDeclarer declare(sink);
    mlp_.clear(), other_.clear();
    const int64_t width = settings_.integer("bottleneck");
    const Dropout dropout(settings_.real("dropout"));
    for (int64_t i = first_; i < last_; ++i) {
      const std::string key = "base_model.model.meft." + std::to_string(i);
      mlp_.push_back(Bottleneck::declare(declare, model.hidden, width, true, dropout, key + ".mlp"));
      gains_.insert(mlp_.back().gain);
      other_.push_back(Bottleneck::declare(declare, model.hidden, width, false, dropout, key + (variant_ == 3 ? ".attention" : ".adapter")));
    }
  }

  void init_param(const tn_exec* exec, uint32_t param, const tn_base_linear*, const tn_rng& rng, tn_tensor& value) {
    float* w = contiguous<float>(&value, "a parameter of meft");
    if (value.ndim == 1) return fill_constant(exec, gains_.contains(param) ? 1.0f : 0.0f, w, count(value));
    fill_normal(exec, rng, 0.02f, w, count(value));
  }

  void run_forward(const Region& r, const tn_tensor& x, tn_tensor& y) {
    below_.assign(static_cast<size_t>(first_), 0), above_.assign(static_cast<size_t>(blocks_ - last_), 0);
    x1_ = x2_ = nullptr;
    anchors_.clear();
    tn_tensor* h = ordinary(r, 0, x, below_);
    tn_tensor *x1 = r.alloc(kF32, {r.rows(), r.hidden()}), *x2 = r.alloc(kF32, {r.rows(), r.hidden()});
    r.axpby(1, h ? *h : x, 0, *x1), r.axpby(1, h ? *h : x, 0, *x2);
    r.free(h);
    for (int64_t i = first_; i < last_; ++i) {
      if (r.saves() && is_anchor(i)) anchors_.emplace_back(copy(r, *x1), copy(r, *x2));
      add(r, F(r, i, *x2, nullptr), lambda_, *x1);
      add(r, G(r, i, *x1, nullptr), beta_, *x2);
      if (variant_ != 3) std::swap(x1, x2);
    }
    tn_tensor* middle = r.alloc(r.hidden());
    r.axpby(0.5, *x1, 0, *middle), r.axpby(0.5, *x2, 1, *middle);
    if (r.saves())
      x1_ = x1, x2_ = x2;
    else
      r.free(x1), r.free(x2);
    tn_tensor* top = ordinary(r, last_, *middle, above_);
    if (top) r.free(middle), middle = top;
    rstd_ = r.norm(*middle, nullptr, y);
    if (r.saves())
      out_ = middle;
    else
      r.free(middle);
  }

  void run_backward(const Region& r, const tn_tensor& dy, tn_tensor* dx) {
    tn_tensor* d = r.alloc(r.hidden());
    r.norm_backward(dy, *out_, nullptr, *rstd_, 0, *d, nullptr);
    r.free(out_), r.free(rstd_);
    for (size_t i = above_.size(); i-- > 0;) r.block_backward(above_[i], *d);
    tn_tensor *d1 = r.alloc(kF32, {r.rows(), r.hidden()}), *d2 = r.alloc(kF32, {r.rows(), r.hidden()});
    r.axpby(0.5, *d, 0, *d1), r.axpby(0.5, *d, 0, *d2);
    r.free(d);
    for (int64_t i = last_; i-- > first_;) {
      if (variant_ != 3) std::swap(x1_, x2_), std::swap(d1, d2);  // now (y1, y2) and their gradients
      invert(r, i, Half::kG, *x1_, *x2_, beta_, *d2, *d1);
      invert(r, i, Half::kF, *x2_, *x1_, lambda_, *d1, *d2);
      if (!is_anchor(i)) continue;
      r.free(x1_), r.free(x2_);
      std::tie(x1_, x2_) = anchors_.back();
      anchors_.pop_back();
    }
    r.free(x1_), r.free(x2_);
    d = r.alloc(r.hidden());
    r.axpby(1, *d1, 0, *d), r.axpby(1, *d2, 1, *d);
    r.free(d1), r.free(d2);
    for (size_t i = below_.size(); i-- > 0;) r.block_backward(below_[i], *d);
    if (dx) r.axpby(1, *d, 0, *dx);
    r.free(d);
  }

  void write_config(const tn_sink& sink) { settings_.write(sink); }

 private:
  enum class Half { kF, kG };
  enum class Work { kBlock, kAdapter, kAttention, kMlp };
  // What one evaluation of F or G leaves for its backward.
  struct Trace {
    tn_tensor *x = nullptr, *middle = nullptr;  // middle: between the halves of a block; what attention adds
    uint64_t first = 0, second = 0;
    Bottleneck::Trace adapter;
  };

  Work work(Half half) const {
    if (variant_ == 3) return half == Half::kF ? Work::kAttention : Work::kMlp;
    return (variant_ == 1) == (half == Half::kF) ? Work::kBlock : Work::kAdapter;
  }

  // As many blocks as an error of one rounding takes to grow to kStreamError. What carries a residual hands on the errors of what it reads, an
  // adapter near zero hardly any.
  int64_t blocks_within_error(int64_t blocks) const {
    const double f = work(Half::kF) == Work::kAdapter ? 0 : 1, g = work(Half::kG) == Work::kAdapter ? 0 : 1;
    double e1 = std::ldexp(1.0, -24), e2 = e1;
    for (int64_t n = 1; n <= blocks; ++n) {
      if (variant_ != 3) std::swap(e1, e2);  // now those of (y1, y2)
      e2 = (e2 + g * e1) / beta_, e1 = (e1 + f * e2) / lambda_;
      if (std::max(e1, e2) > kStreamError) return std::max<int64_t>(1, n - 1);
    }
    return blocks;
  }

  // Whether the streams before block i are kept. Those before the first are never asked for.
  bool is_anchor(int64_t i) const { return i > first_ && (i - first_) % distance_ == 0; }

  static tn_tensor* copy(const Region& r, const tn_tensor& stream) {
    tn_tensor* out = r.alloc(kF32, {r.rows(), r.hidden()});
    r.axpby(1, stream, 0, *out);
    return out;
  }

  // Blocks that are not rewired, from `from` on; null where there are none.
  tn_tensor* ordinary(const Region& r, int64_t from, const tn_tensor& x, std::vector<uint64_t>& tokens) const {
    tn_tensor* h = nullptr;
    for (size_t i = 0; i < tokens.size(); ++i) {
      tn_tensor* next = r.block(static_cast<uint32_t>(from + static_cast<int64_t>(i)), TN_BLOCK_WHOLE, h ? *h : x, r.saves() ? &tokens[i] : nullptr);
      r.free(h);
      h = next;
    }
    return h;
  }

  // to = weight · to + value, which is freed.
  static void add(const Region& r, tn_tensor* value, double weight, tn_tensor& to) {
    r.axpby(1, *value, weight, to);
    r.free(value);
  }

  tn_tensor* F(const Region& r, int64_t i, const tn_tensor& x, Trace* t) const { return evaluate(r, i, Half::kF, x, t); }
  tn_tensor* G(const Region& r, int64_t i, const tn_tensor& x, Trace* t) const { return evaluate(r, i, Half::kG, x, t); }

  // F or G of block i at a stream, in the compute type. t: keeps what backward needs.
  tn_tensor* evaluate(const Region& r, int64_t i, Half half, const tn_tensor& stream, Trace* t) const {
    const auto block = static_cast<uint32_t>(i);
    const Bottleneck &mlp = mlp_[static_cast<size_t>(i - first_)], &other = other_[static_cast<size_t>(i - first_)];
    Bottleneck::Trace* kept = t ? &t->adapter : nullptr;
    tn_tensor *x = r.alloc(r.hidden()), *out = nullptr, *middle = nullptr;
    r.axpby(1, stream, 0, *x);
    switch (work(half)) {
      case Work::kAdapter:
        out = r.alloc(r.hidden());
        other.forward(r, *x, 0, *out, kept);
        break;
      case Work::kBlock:
        middle = r.block(block, TN_BLOCK_ATTENTION, *x, t ? &t->first : nullptr);
        out = r.block(block, TN_BLOCK_MLP, *middle, t ? &t->second : nullptr);
        mlp.forward(r, *middle, 1, *out, kept);
        break;
      case Work::kAttention:
        out = r.block(block, TN_BLOCK_ATTENTION, *x, t ? &t->first : nullptr);
        middle = r.alloc(r.hidden());
        r.axpby(1, *out, 0, *middle), r.axpby(-1, *x, 1, *middle);
        other.forward(r, *middle, 1, *out, kept);
        break;
      case Work::kMlp:
        out = r.block(block, TN_BLOCK_MLP, *x, t ? &t->first : nullptr);
        mlp.forward(r, *x, 1, *out, kept);
    }
    if (t)
      t->x = x, t->middle = middle;
    else
      r.free(x), r.free(middle);
    return out;
  }

  // Gradient of F or G: d becomes that of its input.
  void evaluate_backward(const Region& r, int64_t i, Half half, Trace& t, tn_tensor& d) const {
    const Bottleneck &mlp = mlp_[static_cast<size_t>(i - first_)], &other = other_[static_cast<size_t>(i - first_)];
    tn_tensor *dy = r.alloc(r.hidden()), *da = nullptr;
    r.axpby(1, d, 0, *dy);
    switch (work(half)) {
      case Work::kAdapter:
        r.axpby(0, d, 0, d);
        other.backward(r, *t.x, t.adapter, *dy, d);
        break;
      case Work::kBlock:
        r.block_backward(t.second, d);
        mlp.backward(r, *t.middle, t.adapter, *dy, d);
        r.block_backward(t.first, d);
        break;
      case Work::kAttention:  // out = h + A(h − x), h the half's output
        da = r.alloc(r.hidden());
        r.axpby(0, *dy, 0, *da);
        other.backward(r, *t.middle, t.adapter, *dy, *da);
        r.axpby(1, *da, 1, d);
        r.block_backward(t.first, d);
        r.axpby(-1, *da, 1, d);
        break;
      case Work::kMlp:
        r.block_backward(t.first, d);
        mlp.backward(r, *t.x, t.adapter, *dy, d);
    }
    r.free(dy), r.free(da), r.free(t.x), r.free(t.middle);
  }

  // y = weight · x + H(other): y becomes x; d_other += Hᵀ d, d becomes weight · d.
  void invert(const Region& r, int64_t i, Half half, const tn_tensor& other, tn_tensor& y, double weight, tn_tensor& d, tn_tensor& d_other) const {
    Trace t;
    tn_tensor* value = evaluate(r, i, half, other, &t);
    r.axpby(-1 / weight, *value, 1 / weight, y);
    r.axpby(1, d, 0, *value);  // in the compute type
    evaluate_backward(r, i, half, t, *value);
    r.axpby(1, *value, 1, d_other);
    r.free(value);
    r.axpby(weight, d, 0, d);
  }

  Settings settings_;
  int variant_ = 1;
  double lambda_ = 0.1, beta_ = 1;
  int64_t first_ = 0, last_ = 0, blocks_ = 0;  // reversible: [first_, last_)
  int64_t distance_ = 1;                       // blocks from one anchor to the next
  std::vector<Bottleneck> mlp_, other_;
  std::set<uint32_t> gains_;

  // From a forward to its backward.
  tn_tensor *x1_ = nullptr, *x2_ = nullptr, *out_ = nullptr, *rstd_ = nullptr;
  std::vector<std::pair<tn_tensor*, tn_tensor*>> anchors_;
  std::vector<uint64_t> below_, above_;
};

constexpr tn_adapter_api kApi = region_adapter_api<Meft>();
constexpr tn_region_api kRegion = region_api<Meft>();
const void* extension(const char* id) { return std::string_view(id) == TN_EXT_REGION ? &kRegion : nullptr; }
constexpr tn_plugin kPlugin = describe(TN_KIND_ADAPTER, "meft", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::meft

TENON_PLUGIN(tenon::meft::kPlugin)
