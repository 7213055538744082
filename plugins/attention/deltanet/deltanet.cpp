// DeltaNet (Yang et al. 2024) as a layer's mixer: short convolutions, normalised keys, the delta rule by chunks, a norm per head.
#include <bit>

#include "recurrence.h"

namespace tenon::deltanet {
namespace {

constexpr tn_hyper_info kChunk = sdk::choice("chunk", "64", "16|32|64", "rows of a chunk; shorter inputs take shorter ones");
constexpr tn_hyper_info kConvSize = sdk::integer("conv_size", "4", 1, 8, "tokens", "taps of the convolutions on q, k and v; they start as the identity");
constexpr tn_hyper_info kActivation = sdk::choice("qk_activation", "silu", "silu|identity", "of q and k behind their convolution");
constexpr tn_hyper_info kUseBeta = sdk::flag("use_beta", "true", "a writing strength for every token and key head; false: 1");
constexpr tn_hyper_info kNegative = sdk::flag("allow_neg_eigval", "false", "writing strengths up to 2, so that a state can be reflected");
constexpr tn_hyper_info kUseGate = sdk::flag("use_gate", "false", "the normalised output is multiplied by SiLU of a projection of x");
constexpr const tn_hyper_info* kHypers[] = {&kChunk, &kConvSize, &kActivation, &kUseBeta, &kNegative, &kUseGate};

constexpr float kStartStd = 0.02f;  // of the projections that the model has no weights for

enum Slot : uint32_t { kQ, kK, kV, kLogits, kGate, kNormed, kStates };

// One of q, k and v: its linear, its convolution, its place.
struct Branch {
  uint32_t role = 0, slot = 0, conv = 0;
  int64_t heads = 0, width = 0;
  bool norm = false, activation = true;
  float scale = 1;
  int64_t channels() const { return heads * width; }
};

class DeltaNet {
 public:
  DeltaNet(const tn_host*, const sdk::Hypers& h, const tn_attention_config& c)
      : sizes_{c.n_kv_heads, c.n_kv_heads ? c.n_heads / c.n_kv_heads : 0, c.d_qk, c.d_v},
        chunk_(std::stoll(std::string(h.text("chunk")))),
        taps_(h.integer("conv_size")),
        use_beta_(h.flag("use_beta")),
        use_gate_(h.flag("use_gate")),
        most_(h.flag("allow_neg_eigval") ? 2.0f : 1.0f) {
    if (c.n_heads == 0 || c.n_kv_heads == 0 || c.n_heads % c.n_kv_heads || c.d_qk == 0 || c.d_v == 0)
      sdk::fail(TN_E_ARGUMENT, "deltanet got " + std::to_string(c.n_heads) + " query heads, " + std::to_string(c.n_kv_heads) + " key heads and widths " +
                                   std::to_string(c.d_qk) + " and " + std::to_string(c.d_v) + "; the number of key heads must divide that of query heads");
    if (c.softcap != 0) sdk::fail(TN_E_UNSUPPORTED, "deltanet has no scores that a soft cap could bound; use a softmax attention for this model");
    const bool act = h.text("qk_activation") == "silu";
    const double scale = c.scale != 0 ? c.scale : 1 / std::sqrt(static_cast<double>(c.d_qk));
    q_ = {TN_ROLE_Q, kQ, 0, c.n_heads, c.d_qk, true, act, static_cast<float>(scale)};
    k_ = {TN_ROLE_K, kK, 0, c.n_kv_heads, c.d_qk, true, act, 1};
    v_ = {TN_ROLE_V, kV, 0, c.n_kv_heads, c.d_v, false, true, 1};
  }

  void supports(const tn_query& q) const {
    sdk::require_own_device("deltanet", q);
    if (!sdk::same(q.compute, sdk::kF32) && !sdk::same(q.compute, sdk::kBF16)) sdk::fail(TN_E_UNSUPPORTED, "deltanet computes on activations in f32 or bf16");
  }

  // The states in f32, then the last inputs of the convolutions of q, k and v.
  void state(const tn_dtype& dtype, int64_t, tn_attention_state& out) const {
    out.kind = TN_STATE_FIXED;
    out.bytes = static_cast<uint64_t>(sizes_.state()) * 4 + static_cast<uint64_t>((taps_ - 1) * (q_.channels() + k_.channels() + v_.channels())) * (dtype.bits / 8);
  }

  void bind(const tn_mixer_layer& layer, const sdk::MixerDeclarer& declare) {
    if (layer.flags & TN_MIXER_LAYER_QK_NORM)
      sdk::fail(TN_E_UNSUPPORTED, "deltanet normalises q and k itself and cannot stand in a model with its own norms of them; use a model without q_norm and k_norm");
    for (const uint32_t role : {TN_ROLE_Q, TN_ROLE_K, TN_ROLE_V, TN_ROLE_O}) declare.keep(role);
    const char* names[3] = {"q_conv1d.weight", "k_conv1d.weight", "v_conv1d.weight"};
    int i = 0;
    for (Branch* b : {&q_, &k_, &v_}) b->conv = declare.numbers(names[i++], b->channels(), taps_);
    gain_ = declare.numbers("o_norm.weight", sizes_.e, 0, TN_ROLE_NORM);
    if (use_beta_) b_proj_ = declare.matrix("b_proj.weight", sizes_.kv_heads, layer.hidden);
    if (use_gate_) g_proj_ = declare.matrix("g_proj.weight", sizes_.heads() * sizes_.e, layer.hidden);
  }

  void start(const sdk::MixerPass& p, const tn_rng& rng, bool buffers_only) {
    if (buffers_only || p.plans()) return;
    for (const Branch* b : {&q_, &k_, &v_}) sdk::for_each(p.exec(), b->channels() * taps_, sdk::FillLast{taps_, const_cast<float*>(p.numbers(b->conv))});
    sdk::for_each(p.exec(), sizes_.e, sdk::FillLast{1, const_cast<float*>(p.numbers(gain_))});
    const auto fill = [&](uint32_t param) {
      const tn_tensor& w = p.value(param);
      sdk::for_each(p.exec(), sdk::count(w), sdk::FillNormal{{rng.seed, rng.uid + param, rng.stream}, kStartStd, sdk::data<char>(w), sdk::same(w.dtype, sdk::kBF16)});
    };
    if (use_beta_) fill(b_proj_);
    if (use_gate_) fill(g_proj_);
  }

  void forward(const sdk::MixerPass& p, const tn_tensor& x, tn_tensor& y) {
    Raw raw;
    for (const Branch* b : {&q_, &k_, &v_}) p.linear(b->role, x, *(raw.branch[b->slot] = p.keep(b->slot, b->channels())));
    if (use_beta_) p.project(b_proj_, x, *(raw.logits = p.keep(kLogits, sizes_.kv_heads)));
    if (use_gate_) p.project(g_proj_, x, *(raw.gate = p.keep(kGate, sizes_.heads() * sizes_.e)));
    tn_tensor* const normed = p.keep(kNormed, sizes_.heads() * sizes_.e);
    const Schedule schedule(documents(p), chunk_rows(p));
    const Common c = common(p, schedule);
    const int64_t all_states = schedule.documents() * sizes_.state();
    float* state = p.decodes() ? sdk::data<float>(p.state()) : p.zeros(all_states);
    float* kept = nullptr;
    const auto windows = static_cast<int64_t>(schedule.windows().size());
    if (p.saves()) kept = sdk::data<float>(*p.keep(kStates, sdk::kF32, {std::max<int64_t>(windows * all_states, 1)}));
    if (p.ops().segments) p.clear(*normed);  // rows of no document
    const Recurrence r(p, sizes_, schedule, c.chunk_rows, false);
    for (int64_t i = 0; i < windows; ++i) {
      const Schedule::Window& w = schedule.windows()[static_cast<size_t>(i)];
      if (p.saves()) p.copy(state, shift(kept, i * all_states), all_states);
      prepare(p, c, w, raw, r);
      r.forward(w, state);
      if (p.plans()) continue;
      p.typed([&](auto tag) {
        using T = decltype(tag);
        for_each_row(p.exec(), w.chunks * sizes_.heads(), c.chunk_rows, sizes_.e,
                     Finish<T>{r.o, p.numbers(gain_), raw.of<T>(raw.gate), c.chunks + w.first_chunk, sizes_.heads(), sizes_.e, c.chunk_rows, sdk::data<T>(*normed)});
      });
    }
    if (p.decodes() && !p.plans()) remember(p, raw);
    p.linear(TN_ROLE_O, *normed, y);
  }

  void backward(const sdk::MixerPass& p, const tn_tensor& x, const tn_tensor& dy, tn_tensor* dx) {
    Raw raw;
    for (const Branch* b : {&q_, &k_, &v_}) raw.branch[b->slot] = &p.kept(b->slot);
    if (use_beta_) raw.logits = &p.kept(kLogits);
    if (use_gate_) raw.gate = &p.kept(kGate);
    Raw d;  // of the convolutions' outputs, the logits and the gate
    for (const Branch* b : {&q_, &k_, &v_}) d.branch[b->slot] = p.alloc(b->channels());
    if (use_beta_) d.logits = p.alloc(sizes_.kv_heads);
    if (use_gate_) d.gate = p.alloc(sizes_.heads() * sizes_.e);
    if (p.ops().segments) {
      for (tn_tensor* t : {d.branch[kQ], d.branch[kK], d.branch[kV], d.logits, d.gate})
        if (t) p.clear(*t);
    }
    const Schedule schedule(documents(p), chunk_rows(p));
    const Common c = common(p, schedule);
    {
      tn_tensor* d_normed = p.alloc(sizes_.heads() * sizes_.e);
      p.linear_backward(TN_ROLE_O, dy, p.kept(kNormed), 0, d_normed);
      through_windows(p, c, schedule, raw, *d_normed, d);
      p.free(d_normed);
    }
    double beta = 0;
    for (const Branch* b : {&q_, &k_, &v_}) {
      tn_tensor* into = p.alloc(b->channels());
      through_conv(p, c, schedule, *b, raw, d, *into);
      p.linear_backward(b->role, *into, x, beta, dx);
      p.free(into), beta = 1;
    }
    if (use_beta_) p.project_backward(b_proj_, *d.logits, x, 1, dx);
    if (use_gate_) p.project_backward(g_proj_, *d.gate, x, 1, dx);
  }

 private:
  // The projections of x, or their gradients.
  struct Raw {
    tn_tensor *branch[3]{}, *logits = nullptr, *gate = nullptr;
    template <class T>
    static T* of(tn_tensor* t) {
      return t ? sdk::data<T>(*t) : nullptr;
    }
  };
  struct Common {
    int64_t chunk_rows;
    const Chunk* chunks;
    const float* weights[3];  // of the convolutions, [tap, channel]
  };

  static std::vector<sdk::MixerPass::Document> documents(const sdk::MixerPass& p) {
    return p.decodes() ? std::vector<sdk::MixerPass::Document>{{0, p.rows()}} : p.documents();
  }
  // One row at a time is the recurrence itself.
  int64_t chunk_rows(const sdk::MixerPass& p) const {
    const int64_t longest = p.decodes() ? p.rows() : p.ops().length;
    return longest <= 1 ? 1 : std::min(chunk_, std::max<int64_t>(16, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(longest)))));
  }

  Common common(const sdk::MixerPass& p, const Schedule& s) const {
    Common c{chunk_rows(p), s.upload(p), {}};
    for (const Branch* b : {&q_, &k_, &v_}) {
      float* const to = p.floats(b->channels() * taps_);
      c.weights[b->slot] = to;
      if (!p.plans()) sdk::for_each(p.exec(), b->channels() * taps_, Transpose{p.numbers(b->conv), b->channels(), taps_, to});
    }
    return c;
  }

  // Where the continued sequence keeps the last inputs of this branch's convolution.
  template <class T>
  T* history(const sdk::MixerPass& p, const Branch& b) const {
    if (!p.decodes() || taps_ < 2) return nullptr;
    T* at = reinterpret_cast<T*>(sdk::data<float>(p.state()) + sizes_.state());
    if (b.slot > kQ) at += (taps_ - 1) * q_.channels();
    if (b.slot > kK) at += (taps_ - 1) * k_.channels();
    return at;
  }
  template <class T>
  ShortConv<T> conv(const sdk::MixerPass& p, const Common& c, const Branch& b, const Raw& raw) const {
    return {raw.of<T>(raw.branch[b.slot]), b.channels(), taps_, c.weights[b.slot], history<T>(p, b)};
  }

  // q, k, v and β of a window in chunk layout.
  void prepare(const sdk::MixerPass& p, const Common& c, const Schedule::Window& w, const Raw& raw, const Recurrence& r) const {
    if (p.plans()) return;
    const Chunk* const chunks = c.chunks + w.first_chunk;
    p.typed([&](auto tag) {
      using T = decltype(tag);
      for (const Branch* b : {&q_, &k_, &v_})
        for_each_row(p.exec(), w.chunks * b->heads, c.chunk_rows, b->width * taps_,
                     Prepare<T>{conv<T>(p, c, *b, raw), chunks, b->heads, b->width, c.chunk_rows, b->scale, b->norm, b->activation, buffer(r, *b)});
      sdk::for_each(p.exec(), w.chunks * sizes_.kv_heads * c.chunk_rows,
                    Betas<T>{use_beta_ ? raw.of<T>(raw.logits) : nullptr, chunks, sizes_.kv_heads, c.chunk_rows, most_, r.beta});
    });
  }
  static float* buffer(const Recurrence& r, const Branch& b) { return b.slot == kQ ? r.q : b.slot == kK ? r.k : r.v; }
  static float* gradient(const Recurrence& r, const Branch& b) { return b.slot == kQ ? r.dq : b.slot == kK ? r.dk : r.dv; }

  // Windows in reverse, each run again from the state that came into it.
  void through_windows(const sdk::MixerPass& p, const Common& c, const Schedule& schedule, const Raw& raw, const tn_tensor& d_normed, const Raw& d) const {
    const int64_t all_states = schedule.documents() * sizes_.state(), heads = sizes_.heads();
    float* const kept = sdk::data<float>(p.kept(kStates));
    float *const state = p.floats(std::max<int64_t>(all_states, 1)), *const d_state = p.zeros(all_states);
    const Recurrence r(p, sizes_, schedule, c.chunk_rows, true);
    float* const d_gain = p.floats(std::max<int64_t>(schedule.most_chunks(), 1) * heads * sizes_.e);
    for (auto i = static_cast<int64_t>(schedule.windows().size()); i-- > 0;) {
      const Schedule::Window& w = schedule.windows()[static_cast<size_t>(i)];
      const Chunk* const chunks = c.chunks + (p.plans() ? 0 : w.first_chunk);
      p.copy(shift(kept, i * all_states), state, all_states);
      prepare(p, c, w, raw, r);
      r.forward(w, state);
      if (!p.plans()) {
        p.typed([&](auto tag) {
          using T = decltype(tag);
          sdk::for_each_block(p.exec(), w.chunks * heads,
                              FinishBackward<T>{r.o, p.numbers(gain_), raw.of<T>(raw.gate), sdk::data<T>(d_normed), chunks, heads, sizes_.e, c.chunk_rows, r.d_o, d_gain,
                                                raw.of<T>(d.gate)},
                              c.chunk_rows * sizes_.e);
        });
        if (float* g = p.numbers_grad(gain_)) sdk::for_each(p.exec(), sizes_.e, sdk::AddParts{d_gain, w.chunks * heads, sizes_.e, g});
      }
      r.backward(w, d_state);
      if (p.plans()) continue;
      p.typed([&](auto tag) {
        using T = decltype(tag);
        for (const Branch* b : {&q_, &k_, &v_})
          for_each_row(p.exec(), w.chunks * b->heads, c.chunk_rows, b->width * taps_,
                       PrepareBackward<T>{conv<T>(p, c, *b, raw), chunks, b->heads, b->width, c.chunk_rows, b->scale, b->norm, b->activation, gradient(r, *b),
                                          buffer(r, *b), raw.of<T>(d.branch[b->slot])});
        if (use_beta_)
          sdk::for_each(p.exec(), w.chunks * sizes_.kv_heads * c.chunk_rows,
                        BetasBackward<T>{r.beta, r.d_beta, chunks, sizes_.kv_heads, c.chunk_rows, most_, raw.of<T>(d.logits)});
      });
    }
  }

  // From the convolution's output to the linear's, and the kernel's own gradient.
  void through_conv(const sdk::MixerPass& p, const Common& c, const Schedule& schedule, const Branch& b, const Raw& raw, const Raw& d, tn_tensor& into) const {
    if (p.plans()) return;
    if (p.ops().segments) p.clear(into);
    const int64_t chunks = schedule.chunks();
    p.typed([&](auto tag) {
      using T = decltype(tag);
      const T *const g = raw.of<T>(d.branch[b.slot]), *const from = raw.of<T>(raw.branch[b.slot]);
      for_each_row(p.exec(), chunks, c.chunk_rows, b.channels() * taps_,
                   ConvInputGradient<T>{g, b.channels(), taps_, c.chunk_rows, c.weights[b.slot], c.chunks, sdk::data<T>(into)});
      using Weights = ConvWeightGradient<T>;
      if (float* dweight = p.numbers_grad(b.conv))
        sdk::for_each_block<Weights::kTile * Weights::kMostTaps * static_cast<int64_t>(sizeof(float))>(
            p.exec(), (b.channels() + Weights::kTile - 1) / Weights::kTile, Weights{from, g, b.channels(), taps_, chunks, c.chunks, dweight});
    });
  }

  void remember(const sdk::MixerPass& p, const Raw& raw) const {
    if (taps_ < 2) return;
    p.typed([&](auto tag) {
      using T = decltype(tag);
      for (const Branch* b : {&q_, &k_, &v_})
        sdk::for_each(p.exec(), b->channels(), Remember<T>{raw.of<T>(raw.branch[b->slot]), p.rows(), b->channels(), taps_, history<T>(p, *b)});
    });
  }

  Sizes sizes_;
  int64_t chunk_, taps_;
  bool use_beta_, use_gate_;
  float most_;
  Branch q_, k_, v_;
  uint32_t gain_ = 0, b_proj_ = 0, g_proj_ = 0;
};

constexpr tn_attention_api kApi = sdk::mixer_attention_api<DeltaNet>();
constexpr tn_mixer_api kMixer = sdk::mixer_api<DeltaNet>();
const void* extension(const char* id) { return std::string_view(id) == TN_EXT_MIXER ? &kMixer : nullptr; }
constexpr tn_plugin kPlugin = sdk::describe(TN_KIND_ATTENTION, "deltanet", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::deltanet

TENON_PLUGIN(tenon::deltanet::kPlugin)
