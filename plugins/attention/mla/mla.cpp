// Multi-head latent attention, made from a model that has keys and values (X-EcoMLA 2025): c = W_kv x of rank r stands for the keys and
// values of all heads; a small part of the key that turns with the position is shared by them.
#include <string_view>

#include "heads.h"
#include "low_rank.h"
#include "sdk/device_memory.h"

namespace tenon::mla {
namespace {

constexpr tn_hyper_info kRank = sdk::integer("kv_lora_rank", "64", 1, 65536, "numbers", "rank of the latent of keys and values, rounded up to a multiple of 8");
constexpr tn_hyper_info kQueryRank = sdk::integer("q_lora_rank", "0", 0, 65536, "numbers", "rank of the queries' own latent; 0: the model's q projection stays as it is");
constexpr tn_hyper_info kTurning = sdk::integer("qk_rope_head_dim", "-1", -1, 65536, "numbers", "width of the shared key that turns with the position; -1: half a head");
constexpr tn_hyper_info kStill = sdk::integer("qk_nope_head_dim", "-1", -1, 65536, "numbers", "width of each head's key that does not turn; -1: the rest of a head");
constexpr tn_hyper_info kSplit =
    sdk::choice("split", "pairs", "pairs|last", "which dimensions of a head turn: its fastest rotary pairs, or its last dimensions in pairs of their own (X-EcoMLA)");
constexpr tn_hyper_info kCore = sdk::text("core", "flash-attention", "the softmax kernel behind the projections");
constexpr const tn_hyper_info* kHypers[] = {&kRank, &kQueryRank, &kTurning, &kStill, &kSplit, &kCore};

enum Slot : uint32_t { kQ, kQueryLatent, kLatent, kShared, kO, kLse };

int64_t rounded_up(int64_t x) { return (x + 7) / 8 * 8; }

class Mla {
 public:
  Mla(const tn_host*, const sdk::Hypers& h, const tn_attention_config& c)
      : heads_(c.n_heads), kv_heads_(c.n_kv_heads), d_(c.d_qk), asked_rank_(h.integer("kv_lora_rank")), asked_q_rank_(h.integer("q_lora_rank")),
        core_(h.text("core")), config_(c) {
    if (heads_ == 0 || kv_heads_ == 0 || heads_ % kv_heads_ || c.d_qk != c.d_v)
      sdk::fail(TN_E_ARGUMENT, "mla got " + std::to_string(heads_) + " query heads and " + std::to_string(kv_heads_) + " key heads of widths " + std::to_string(c.d_qk) +
                                   " and " + std::to_string(c.d_v) + "; key heads must divide query heads, and widths be equal");
    const bool pairs = h.text("split") == "pairs";
    const int64_t turning = h.integer("qk_rope_head_dim") < 0 ? d_ / 4 * 2 : h.integer("qk_rope_head_dim");
    const int64_t still = h.integer("qk_nope_head_dim") < 0 ? d_ - turning : h.integer("qk_nope_head_dim");
    if (turning % 2 || turning > d_ || still < 1 || still > (pairs ? d_ - turning : d_))
      sdk::fail(TN_E_ARGUMENT, "mla cannot take qk_rope_head_dim " + std::to_string(turning) + " and qk_nope_head_dim " + std::to_string(still) + " from heads of " +
                                   std::to_string(d_) + "; the first must be even, the second at least 1, and both together at most a head");
    if (!pairs && turning > 0 && d_ % turning)
      sdk::fail(TN_E_ARGUMENT, "mla with split=last needs a qk_rope_head_dim that divides the head's " + std::to_string(d_) + ", not " + std::to_string(turning));
    split_ = pairs ? Split::pairs(d_, still, turning) : Split::last(d_, still, turning);
    frequency_step_ = pairs || turning == 0 ? 1 : d_ / turning;
  }

  void supports(const tn_query& q) const {
    sdk::require_own_device("mla", q);
    if (!sdk::same(q.compute, sdk::kF32) && !sdk::same(q.compute, sdk::kBF16)) sdk::fail(TN_E_UNSUPPORTED, "mla computes on activations in f32 or bf16");
  }

  // Of every token its latent and the shared part of its key.
  void state(const tn_dtype& dtype, int64_t tokens, tn_attention_state& out) const {
    out.kind = TN_STATE_PER_TOKEN;
    out.bytes = static_cast<uint64_t>(tokens * (rank_ + split_.turning)) * (dtype.bits / 8);
  }

  void bind(const tn_mixer_layer& layer, const sdk::MixerDeclarer& declare) {
    if (layer.flags & TN_MIXER_LAYER_QK_NORM) sdk::fail(TN_E_UNSUPPORTED, "mla cannot convert a model that normalises its keys per head (k_norm); use one without");
    if (layer.flags & TN_MIXER_LAYER_QKV_BIAS) sdk::fail(TN_E_UNSUPPORTED, "mla cannot convert a model whose keys and values have biases; use one without");
    const int64_t most = std::min(2 * kv_heads_ * d_, layer.hidden), most_q = std::min(heads_ * d_, layer.hidden);
    if (asked_rank_ > most)
      sdk::fail(TN_E_ARGUMENT, "mla's kv_lora_rank " + std::to_string(asked_rank_) + " is more than the rank of this model's keys and values, which is at most " + std::to_string(most));
    if (asked_q_rank_ > most_q)
      sdk::fail(TN_E_ARGUMENT, "mla's q_lora_rank " + std::to_string(asked_q_rank_) + " is more than the rank of this model's queries, which is at most " + std::to_string(most_q));
    rank_ = std::min(rounded_up(asked_rank_), most), q_rank_ = std::min(rounded_up(asked_q_rank_), most_q);
    frequencies_.clear();
    for (int64_t i = 0; i < split_.turning / 2; ++i) frequencies_.push_back(layer.inv_freq[i * frequency_step_]);
    declare.keep(TN_ROLE_O);
    if (q_rank_ == 0) {
      declare.keep(TN_ROLE_Q);
      q_split_ = split_;
    } else {
      q_a_ = declare.matrix("q_a_proj.weight", q_rank_, layer.hidden);
      q_b_ = declare.matrix("q_b_proj.weight", heads_ * width(), q_rank_);
      q_split_ = Split::joined(split_.still, split_.turning);
    }
    kv_a_ = declare.matrix("kv_a_proj.weight", rank_, layer.hidden);
    k_b_ = declare.matrix("k_b_proj.weight", heads_ * split_.still, rank_);
    v_b_ = declare.matrix("v_b_proj.weight", heads_ * d_, rank_);
    if (split_.turning > 0) {
      k_rope_ = declare.matrix("k_rope_proj.weight", split_.turning, layer.hidden);
      inv_freq_ = declare.buffer("inv_freq", split_.turning / 2);
    }
    tn_attention_config c = config_;
    c.struct_size = TN_SIZE_TO(tn_attention_config, softcap);
    const auto u = [](int64_t x) { return static_cast<uint32_t>(x); };
    c.scale = layer.rope_scale * layer.rope_scale / std::sqrt(static_cast<double>(width()));
    c.n_kv_heads = u(heads_), c.d_qk = u(width());
    plain_ = declare.core(core_, c, layer.window);
    c.n_kv_heads = 1, c.d_qk = u(rank_ + split_.turning), c.d_v = u(rank_);
    absorbed_ = declare.core(core_, c, layer.window);
  }

  // The latent from the SVD of the keys' and values' weights, one above the other.
  void start(const sdk::MixerPass& p, const tn_rng&, bool buffers_only) {
    if (split_.turning > 0 && !p.plans()) sdk::copy_to_device(p.exec(), frequencies_.data(), sdk::data<float>(p.value(inv_freq_)), split_.turning / 2);
    if (buffers_only) return;
    const int64_t n = p.value(kv_a_).shape[1], rows = kv_heads_ * d_;
    const std::vector<double> k = read(p, TN_ROLE_K, rows, n), v = read(p, TN_ROLE_V, rows, n);
    Factors kv;
    std::vector<float> k_b(static_cast<size_t>(heads_ * split_.still * rank_)), v_b(static_cast<size_t>(heads_ * d_ * rank_)),
        rope(static_cast<size_t>(split_.turning * n));
    if (!p.plans()) {
      std::vector<double> stacked = k;
      stacked.insert(stacked.end(), v.begin(), v.end());
      kv = factors(stacked, 2 * rows, n, rank_);
      // A key head stands once for each of its query heads: singular values grow by √G, and left vectors shrink.
      const int64_t group = heads_ / kv_heads_;
      const double root = std::sqrt(static_cast<double>(group));
      for (double& x : kv.down) x *= root;
      for (int64_t h = 0; h < heads_; ++h) {
        const int64_t head = h / group * d_;
        for (int64_t c = 0; c < split_.still; ++c)
          for (int64_t i = 0; i < rank_; ++i) k_b[(h * split_.still + c) * rank_ + i] = static_cast<float>(kv.up[(head + split_.still_at(c)) * rank_ + i] / root);
        for (int64_t c = 0; c < d_; ++c)
          for (int64_t i = 0; i < rank_; ++i) v_b[(h * d_ + c) * rank_ + i] = static_cast<float>(kv.up[(rows + head + c) * rank_ + i] / root);
      }
      // The shared key: the mean over key heads.
      for (int64_t c = 0; c < split_.turning; ++c)
        for (int64_t j = 0; j < n; ++j) {
          double sum = 0;
          for (int64_t g = 0; g < kv_heads_; ++g) sum += k[(g * d_ + split_.turning_at(c)) * n + j];
          rope[c * n + j] = static_cast<float>(sum / static_cast<double>(kv_heads_));
        }
    }
    write(p, kv_a_, narrowed(kv.down)), write(p, k_b_, k_b), write(p, v_b_, v_b);
    if (split_.turning > 0) write(p, k_rope_, rope);
    if (q_rank_ > 0) start_queries(p, n);
  }

  void forward(const sdk::MixerPass& p, const tn_tensor& x, tn_tensor& y) {
    tn_tensor *q = nullptr, *latent = p.keep(kLatent, rank_), *shared = split_.turning ? p.keep(kShared, split_.turning) : nullptr;
    if (q_rank_ == 0) {
      q = p.keep(kQ, heads_ * d_);
      p.linear(TN_ROLE_Q, x, *q);
    } else {
      tn_tensor* const of_q = p.keep(kQueryLatent, q_rank_);
      p.project(q_a_, x, *of_q);
      p.project(q_b_, *of_q, *(q = p.alloc(heads_ * width())));
    }
    p.project(kv_a_, x, *latent);
    if (shared) p.project(k_rope_, x, *shared);
    tn_tensor* o = nullptr;
    if (p.decodes()) {
      remember(p, latent, shared);
      o = p.past() == 0 && p.rows() > 1 ? attend(p, q, latent, shared) : attend_latents(p, q);
    } else {
      o = attend(p, q, latent, shared);
    }
    p.linear(TN_ROLE_O, *o, y);
  }

  void backward(const sdk::MixerPass& p, const tn_tensor& x, const tn_tensor& dy, tn_tensor* dx) {
    tn_tensor *latent = &p.kept(kLatent), *shared = split_.turning ? &p.kept(kShared) : nullptr, *o = &p.kept(kO), *q = nullptr;
    if (q_rank_ == 0)
      q = &p.kept(kQ);
    else
      p.project(q_b_, p.kept(kQueryLatent), *(q = p.alloc(heads_ * width())));
    tn_tensor* d_o = p.alloc(heads_ * d_);
    p.linear_backward(TN_ROLE_O, dy, *o, 0, d_o);
    Ports a = ports(p, q, latent, shared);
    if (q_rank_ > 0) p.free(q);
    tn_tensor *dq = p.alloc(heads_ * width()), *dk = p.alloc(heads_ * width()), *dv = p.alloc(heads_ * d_);
    {
      const sdk::HeadsView vq(*a.q, heads_), vk(*a.k, heads_), vv(*a.v, heads_), vo(*o, heads_), vd(*d_o, heads_);
      sdk::HeadsView vdq(*dq, heads_), vdk(*dk, heads_), vdv(*dv, heads_);
      p.core_backward(plain_, vq.tensor, vk.tensor, vv.tensor, vo.tensor, p.kept(kLse), vd.tensor, vdq.tensor, vdk.tensor, vdv.tensor);
    }
    p.free(d_o), p.free(a.q), p.free(a.k), p.free(a.v);
    tn_tensor *d_latent = p.alloc(rank_), *d_shared = shared ? p.alloc(split_.turning) : nullptr, *d_still = p.alloc(heads_ * split_.still);
    if (!p.plans())
      p.typed([&](auto tag) {
        using T = decltype(tag);
        sdk::for_each_block(p.exec(), p.rows(), SplitKeyGradient<T>{turn(p), heads_, split_.still, split_.turning, sdk::data<T>(*dk), sdk::data<T>(*d_still), of<T>(d_shared)},
                            heads_ * width());
      });
    p.free(dk);
    p.project_backward(k_b_, *d_still, *latent, 0, d_latent);
    p.project_backward(v_b_, *dv, *latent, 1, d_latent);
    p.free(d_still), p.free(dv);
    // dx is written by the first of these and added to by the others.
    if (q_rank_ == 0) {
      tn_tensor* d_q = unsplit(p, *dq, heads_ * d_);
      p.linear_backward(TN_ROLE_Q, *d_q, x, 0, dx);
      p.free(d_q);
    } else {
      tn_tensor *d_q = unsplit(p, *dq, heads_ * width()), *d_of_q = p.alloc(q_rank_);
      p.project_backward(q_b_, *d_q, p.kept(kQueryLatent), 0, d_of_q);
      p.project_backward(q_a_, *d_of_q, x, 0, dx);
      p.free(d_q), p.free(d_of_q);
    }
    p.project_backward(kv_a_, *d_latent, x, 1, dx);
    if (shared) p.project_backward(k_rope_, *d_shared, x, 1, dx);
  }

 private:
  int64_t width() const { return split_.still + split_.turning; }

  template <class T>
  static T* of(tn_tensor* t) {
    return t ? sdk::data<T>(*t) : nullptr;
  }
  Turn turn(const sdk::MixerPass& p) const { return {p.positions(), split_.turning > 0 ? p.numbers(inv_freq_) : nullptr}; }

  // Rows of a weight of the model, on the host.
  static std::vector<double> read(const sdk::MixerPass& p, uint32_t role, int64_t rows, int64_t n) {
    tn_tensor* t = p.alloc(sdk::kF32, {rows, n});
    p.read_rows(role, 0, rows, *t);
    std::vector<float> x(p.plans() ? 0 : static_cast<size_t>(rows * n));
    if (!p.plans()) sdk::copy_to_host(p.exec(), sdk::data<float>(*t), x.data(), rows * n);
    p.free(t);
    return {x.begin(), x.end()};
  }
  static std::vector<float> narrowed(const std::vector<double>& x) { return {x.begin(), x.end()}; }
  static void write(const sdk::MixerPass& p, uint32_t param, const std::vector<float>& x) {
    tn_tensor& to = *p.ops().params[param]->value;
    tn_tensor* t = p.alloc(sdk::kF32, {to.shape[0], to.shape[1]});
    if (!p.plans()) sdk::copy_to_device(p.exec(), x.data(), sdk::data<float>(*t), static_cast<int64_t>(x.size()));
    p.axpby(1, *t, 0, to);
    p.free(t);
  }
  static Factors factors(const std::vector<double>& a, int64_t m, int64_t n, int64_t rank) {
    Factors f = best_of_rank(a, m, n, rank);
    if (f.up.empty()) sdk::fail(TN_E_NUMERIC, "mla cannot convert weights that are NaN or infinite; load an undamaged model");
    return f;
  }
  void start_queries(const sdk::MixerPass& p, int64_t n) const {
    const std::vector<double> w = read(p, TN_ROLE_Q, heads_ * d_, n);
    Factors q;
    std::vector<float> q_b(static_cast<size_t>(heads_ * width() * q_rank_));
    if (!p.plans()) {
      q = factors(w, heads_ * d_, n, q_rank_);
      for (int64_t h = 0; h < heads_; ++h)
        for (int64_t c = 0; c < width(); ++c) {
          const int64_t from = h * d_ + (c < split_.still ? split_.still_at(c) : split_.turning_at(c - split_.still));
          for (int64_t i = 0; i < q_rank_; ++i) q_b[(h * width() + c) * q_rank_ + i] = static_cast<float>(q.up[from * q_rank_ + i]);
        }
    }
    write(p, q_a_, narrowed(q.down)), write(p, q_b_, q_b);
  }

  struct Ports {
    tn_tensor *q, *k, *v;
  };
  // Queries, keys and values of every head.
  Ports ports(const sdk::MixerPass& p, const tn_tensor* q, const tn_tensor* latent, tn_tensor* shared) const {
    Ports a{p.alloc(heads_ * width()), p.alloc(heads_ * width()), p.alloc(heads_ * d_)};
    tn_tensor* still = p.alloc(heads_ * split_.still);
    p.project(k_b_, *latent, *still);
    p.project(v_b_, *latent, *a.v);
    if (!p.plans())
      p.typed([&](auto tag) {
        using T = decltype(tag);
        split_queries<T>(p, q, dense<T>(a.q, width()), dense<T>(a.q, width(), split_.still));
        sdk::for_each_block(p.exec(), p.rows() * heads_, JoinKeys<T>{turn(p), heads_, split_.still, split_.turning, sdk::data<T>(*still), of<T>(shared), sdk::data<T>(*a.k)}, width());
      });
    p.free(still);
    return a;
  }
  template <class T>
  Heads<T> dense(const tn_tensor* t, int64_t per_head, int64_t offset = 0) const {
    return {sdk::data<T>(*t) + offset, heads_ * per_head, per_head};
  }
  template <class T>
  void split_queries(const sdk::MixerPass& p, const tn_tensor* q, Heads<T> still, Heads<T> turning) const {
    const Heads<const T> from{sdk::data<T>(*q), heads_ * q_split_.width, q_split_.width};
    sdk::for_each_block(p.exec(), p.rows() * heads_, SplitQueries<T>{q_split_, turn(p), heads_, from, still, turning}, width());
  }
  tn_tensor* unsplit(const sdk::MixerPass& p, const tn_tensor& dq, int64_t columns) const {
    tn_tensor* const to = p.alloc(columns);
    if (!p.plans())
      p.typed([&](auto tag) {
        using T = decltype(tag);
        const Heads<const T> still{sdk::data<T>(dq), heads_ * width(), width()}, turning{sdk::data<T>(dq) + split_.still, heads_ * width(), width()};
        sdk::for_each_block(p.exec(), p.rows() * heads_, JoinQueryGradient<T>{q_split_, turn(p), heads_, still, turning, dense<T>(to, q_split_.width)}, width());
      });
    return to;
  }

  tn_tensor* attend(const sdk::MixerPass& p, tn_tensor* q, const tn_tensor* latent, tn_tensor* shared) const {
    tn_tensor *o = p.keep(kO, heads_ * d_), *lse = p.saves() ? p.keep(kLse, sdk::kF32, {p.ops().sequences, heads_, p.ops().length}) : nullptr;
    Ports a = ports(p, q, latent, shared);
    const sdk::HeadsView vq(*a.q, heads_), vk(*a.k, heads_), vv(*a.v, heads_);
    sdk::HeadsView vo(*o, heads_);
    p.core(plain_, vq.tensor, vk.tensor, vv.tensor, vo.tensor, lse);
    p.free(a.q), p.free(a.k), p.free(a.v);
    return o;
  }

  // Appends the rows to the cache.
  void remember(const sdk::MixerPass& p, const tn_tensor* latent, tn_tensor* shared) const {
    if (p.plans()) return;
    p.typed([&](auto tag) {
      using T = decltype(tag);
      T* const to = reinterpret_cast<T*>(sdk::data<uint8_t>(p.state())) + p.past() * (rank_ + split_.turning);
      sdk::for_each_block(p.exec(), p.rows(), Remember<T>{turn(p), rank_, split_.turning, sdk::data<T>(*latent), of<T>(shared), to}, rank_ + split_.turning);
    });
  }

  // Absorbed: queries go to the latents, which are keys and values at once and never unfolded.
  tn_tensor* attend_latents(const sdk::MixerPass& p, const tn_tensor* q) const {
    const int64_t kept = rank_ + split_.turning, keys = p.past() + p.rows(), rows = p.rows(), n = split_.still;
    tn_tensor *still = p.alloc(heads_ * n), *wide = p.alloc(heads_ * kept), *mixed = p.alloc(heads_ * rank_), *o = p.alloc(heads_ * d_);
    if (!p.plans())
      p.typed([&](auto tag) {
        using T = decltype(tag);
        split_queries<T>(p, q, dense<T>(still, n), dense<T>(wide, kept, rank_));
      });
    // Per head h: wide[:, h, :r] = still[:, h] · W_uk,h, and o[:, h] = mixed[:, h] · W_uv,hᵀ.
    p.product(1, by_head(*still, rows, n, n), of_head(p.weight(k_b_), n), 0, by_head(*wide, rows, kept, rank_));
    tn_tensor cache = p.state();
    cache.dtype = p.compute();
    const sdk::HeadsView vq(*wide, heads_), k(cache, keys, 1, kept, kept, kept), v(cache, keys, 1, rank_, kept, kept);
    sdk::HeadsView vm(*mixed, heads_);
    p.core(absorbed_, vq.tensor, k.tensor, v.tensor, vm.tensor, nullptr);
    p.product(1, by_head(*mixed, rows, rank_, rank_), of_head(p.weight(v_b_), d_).transposed(), 0, by_head(*o, rows, d_, d_));
    p.free(still), p.free(wide), p.free(mixed);
    return o;
  }
  // The first `columns` of each head of rows [row, head, stride], as one matrix a head.
  sdk::Matrices by_head(const tn_tensor& t, int64_t rows, int64_t stride, int64_t columns) const {
    return {{sdk::data<char>(t), t.dtype, rows, columns, heads_ * stride, 1}, heads_, stride};
  }
  sdk::Matrices of_head(const sdk::Matrix& w, int64_t rows) const { return {{w.data, w.dtype, rows, w.columns, w.row_stride, w.column_stride}, heads_, rows * w.row_stride}; }

  int64_t heads_, kv_heads_, d_, asked_rank_, asked_q_rank_, rank_ = 0, q_rank_ = 0, frequency_step_ = 1;
  std::string core_;
  tn_attention_config config_;
  Split split_{}, q_split_{};
  std::vector<float> frequencies_;
  uint32_t q_a_ = 0, q_b_ = 0, kv_a_ = 0, k_b_ = 0, v_b_ = 0, k_rope_ = 0, inv_freq_ = 0, plain_ = 0, absorbed_ = 0;
};

constexpr tn_attention_api kApi = sdk::mixer_attention_api<Mla>();
constexpr tn_mixer_api kMixer = sdk::mixer_api<Mla>();
const void* extension(const char* id) { return std::string_view(id) == TN_EXT_MIXER ? &kMixer : nullptr; }
constexpr tn_plugin kPlugin = sdk::describe(TN_KIND_ATTENTION, "mla", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::mla

TENON_PLUGIN(tenon::mla::kPlugin)
