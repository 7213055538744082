// LaCT (Test-Time Training Done Right 2025) as a layer's mixer: a sliding window of attention, and beside it an MLP per head whose weights
// take a gradient step at the end of every large chunk of a document.
#include "fast_weights.h"
#include "initial.h"
#include "state.h"
#include "window.h"

namespace tenon::lact {
namespace {

// Steps from fewer tokens than 4 have a rank so low that what Newton-Schulz makes of rounding grows from step to step.
constexpr tn_hyper_info kChunk = sdk::integer("chunk", "2048", 4, 1 << 20, "tokens", "tokens between two steps of the fast weights");
constexpr tn_hyper_info kWindow = sdk::integer("window", "2048", 0, 1 << 20, "tokens", "keys that attention beside the fast weights sees; 0: no attention");
constexpr tn_hyper_info kHeads = sdk::integer("fw_heads", "4", 1, 256, "heads", "heads of the fast weights; they divide the width of the queries");
constexpr tn_hyper_info kMulti = sdk::integer("inter_multi", "1", 1, 8, "", "hidden width of the fast MLP over the width of its head");
constexpr tn_hyper_info kRank = sdk::integer("low_rank", "0", 0, 4096, "numbers", "initial W0 and W2 as products of this rank plus half the identity; 0: whole");
constexpr tn_hyper_info kGain = sdk::real("init_gain", "0.5", 0, 4, TN_RANGE_OPEN_MIN, "", "scale of the factors of low_rank at the start");
constexpr tn_hyper_info kRate = sdk::real("base_lr", "0.001", 1e-6, 1, 0, "", "learning rate of the fast weights where its projection says 0");
constexpr tn_hyper_info kMuon = sdk::flag("muon", "true", "steps are orthogonalised by Newton-Schulz");
constexpr tn_hyper_info kMomentum = sdk::flag("momentum", "true", "steps remember earlier ones, by a projection of the chunk's tokens");
constexpr tn_hyper_info kPrenorm = sdk::flag("prenorm", "false", "steps add up, and rows are rescaled where they are used; false: rescaled rows are what the next step adds to");
constexpr tn_hyper_info kSilu = sdk::flag("qkv_silu", "true", "SiLU on the fast queries, keys and values");
constexpr tn_hyper_info kRope = sdk::flag("rope", "true", "fast queries and keys turn with the position, as attention's do");
constexpr tn_hyper_info kScale = sdk::flag("ttt_scale", "true", "the fast output is multiplied by SiLU of a projection of x, which begins at 0; false: joined as it is");
constexpr tn_hyper_info kRecompute = sdk::flag("recompute", "false", "fast weights between chunks are made again for backward instead of being saved");
constexpr tn_hyper_info kCore = sdk::text("core", "flash-attention", "the softmax kernel of the window");
constexpr const tn_hyper_info* kHypers[] = {&kChunk, &kWindow, &kHeads, &kMulti, &kRank, &kGain, &kRate, &kMuon, &kMomentum, &kPrenorm, &kSilu, &kRope, &kScale, &kRecompute, &kCore};

constexpr float kStartStd = 0.02f;  // of the projections that the model has no weights for

enum Slot : uint32_t { kQ, kK, kV, kRates, kMomenta, kGates, kAttention, kLse, kSum, kBoundaries };

// softplus of this is x.
double inverse_softplus(double x) { return x + std::log(-std::expm1(-x)); }

class Lact {
 public:
  Lact(const tn_host*, const sdk::Hypers& h, const tn_attention_config& c)
      : chunk_(h.integer("chunk")), rank_(h.integer("low_rank")), gain_at_start_(h.real("init_gain")), base_(static_cast<float>(inverse_softplus(h.real("base_lr")))),
        rule_{h.flag("muon"), h.flag("momentum"), h.flag("prenorm")}, silu_(h.flag("qkv_silu")), rope_(h.flag("rope")), scale_(h.flag("ttt_scale")),
        recompute_(h.flag("recompute")), core_(h.text("core")), window_(c, h.integer("window")) {
    if (c.n_heads == 0 || c.n_kv_heads == 0 || c.n_heads % c.n_kv_heads || c.d_qk == 0 || c.d_qk != c.d_v || c.d_qk % 2)
      sdk::fail(TN_E_ARGUMENT, "lact got " + std::to_string(c.n_heads) + " query heads and " + std::to_string(c.n_kv_heads) + " key heads of widths " +
                                   std::to_string(c.d_qk) + " and " + std::to_string(c.d_v) + "; key heads must divide query heads, and widths be equal and even");
    const int64_t n = int64_t{c.n_heads} * c.d_qk, heads = h.integer("fw_heads");
    if (n % heads)
      sdk::fail(TN_E_ARGUMENT, "lact cannot share a width of " + std::to_string(n) + " among " + std::to_string(heads) + " fast heads; take an fw_heads that divides it");
    at_ = {heads, n / heads, n / heads * h.integer("inter_multi")};
    if (rank_ > at_.d)
      sdk::fail(TN_E_ARGUMENT, "lact's low_rank " + std::to_string(rank_) + " is more than the " + std::to_string(at_.d) + " columns of a fast head's matrices; take less, or 0 for whole ones");
    queries_ = {c.n_heads, 1, c.d_qk}, keys_ = {c.n_heads, c.n_heads / c.n_kv_heads, c.d_qk};
    initial_ = InitialWeights(at_, rank_);
  }

  void supports(const tn_query& q) const {
    sdk::require_own_device("lact", q);
    if (!sdk::same(q.compute, sdk::kF32) && !sdk::same(q.compute, sdk::kBF16)) sdk::fail(TN_E_UNSUPPORTED, "lact computes on activations in f32 or bf16");
  }

  void state(const tn_dtype& dtype, int64_t tokens, tn_attention_state& out) const {
    out.kind = TN_STATE_RING;
    out.bytes = layout(dtype).bytes(tokens);
  }

  void bind(const tn_mixer_layer& layer, const sdk::MixerDeclarer& declare) {
    if (layer.flags & TN_MIXER_LAYER_QK_NORM)
      sdk::fail(TN_E_UNSUPPORTED, "lact cannot stand in a model that normalises queries and keys per head (q_norm, k_norm); use one without");
    for (const uint32_t role : {TN_ROLE_Q, TN_ROLE_K, TN_ROLE_V, TN_ROLE_O}) declare.keep(role);
    const int64_t n = queries_.count(), half = queries_.width / 2;
    frequencies_.assign(layer.inv_freq, layer.inv_freq + half);
    initial_.declare(declare);
    qk_scale_ = declare.numbers("qk_scale.weight", n, 2), qk_offset_ = declare.numbers("qk_offset.weight", n, 2);
    gain_ = declare.numbers("ttt_norm.weight", at_.d, 0, TN_ROLE_NORM);
    const auto projection = [&](const char* weight, const char* bias, int64_t out) {
      return Projection{declare.matrix(weight, out, layer.hidden), declare.numbers(bias, out, 0, TN_ROLE_BIAS), out};
    };
    rates_ = projection("lr_proj.weight", "lr_proj.bias", 3 * at_.heads);
    if (rule_.momentum) momenta_ = projection("momentum_proj.weight", "momentum_proj.bias", at_.heads);
    if (scale_) gates_ = projection("ttt_scale_proj.weight", "ttt_scale_proj.bias", at_.heads);
    inv_freq_ = declare.buffer("inv_freq", half);
    window_.bind(layer, declare, core_);
  }

  // A model with weights begins as its own attention over the window: what the fast weights say is multiplied by 0.
  void start(const sdk::MixerPass& p, const tn_rng& rng, bool buffers_only) {
    if (p.plans()) return;
    sdk::copy_to_device(p.exec(), frequencies_.data(), sdk::data<float>(p.value(inv_freq_)), queries_.width / 2);
    if (buffers_only) return;
    initial_.start(p, rng, gain_at_start_);
    const auto ones = [&](uint32_t param) { sdk::for_each(p.exec(), sdk::count(p.value(param)), sdk::FillLast{1, const_cast<float*>(p.numbers(param))}); };
    ones(qk_scale_), ones(gain_), p.clear(p.value(qk_offset_));
    const auto fill = [&](const Projection& to) {
      const tn_tensor& w = p.value(to.weight);
      sdk::for_each(p.exec(), sdk::count(w), sdk::FillNormal{{rng.seed, rng.uid + to.weight, rng.stream}, kStartStd, sdk::data<char>(w), sdk::same(w.dtype, sdk::kBF16)});
      p.clear(p.value(to.bias));
    };
    fill(rates_);
    if (rule_.momentum) fill(momenta_);
    if (scale_) p.clear(p.value(gates_.weight)), p.clear(p.value(gates_.bias));
  }

  void forward(const sdk::MixerPass& p, const tn_tensor& x, tn_tensor& y) {
    const Course course(p, chunk_);
    const State state = p.decodes() ? layout(p.compute()).of(p) : State{};
    Raw raw;
    raw.q = p.keep(kQ, queries_.columns()), raw.k = p.keep(kK, keys_.columns()), raw.v = p.keep(kV, keys_.columns());
    p.linear(TN_ROLE_Q, x, *raw.q), p.linear(TN_ROLE_K, x, *raw.k), p.linear(TN_ROLE_V, x, *raw.v);
    if (course.learns || state.remembers) {
      p.project(rates_.weight, x, *(raw.rates = p.keep(kRates, rates_.columns)));
      if (rule_.momentum) p.project(momenta_.weight, x, *(raw.momenta = p.keep(kMomenta, momenta_.columns)));
    }
    if (scale_) p.project(gates_.weight, x, *(raw.gates = p.keep(kGates, gates_.columns)));
    if (window_.on())
      raw.attention = p.decodes() ? window_.decode(p, *raw.q, *raw.k, *raw.v, p.numbers(inv_freq_), state.ring) : window_.forward(p, *raw.q, *raw.k, *raw.v, p.numbers(inv_freq_), kAttention);
    tn_tensor* const sum = p.keep(kSum, queries_.columns());
    if (p.ops().segments) p.clear(*sum);  // rows of no document
    FastWeights fast(p, at_, rule_, initial_.values(p), course.longest, course.learns, course.learns || course.past_steps > 0, false);
    if (p.decodes())
      decode(p, fast, course, state, raw, *sum);
    else
      through_documents(p, fast, course, raw, *sum);
    p.linear(TN_ROLE_O, *sum, y);
  }

  void backward(const sdk::MixerPass& p, const tn_tensor& x, const tn_tensor& dy, tn_tensor* dx) {
    const Course course(p, chunk_);
    Raw raw, d;
    raw.q = &p.kept(kQ), raw.k = &p.kept(kK), raw.v = &p.kept(kV);
    if (course.learns) raw.rates = &p.kept(kRates);
    if (course.learns && rule_.momentum) raw.momenta = &p.kept(kMomenta);
    if (scale_) raw.gates = &p.kept(kGates);
    tn_tensor* d_sum = p.alloc(queries_.columns());
    p.linear_backward(TN_ROLE_O, dy, p.kept(kSum), 0, d_sum);
    d.q = p.alloc(queries_.columns()), d.k = p.alloc(keys_.columns()), d.v = p.alloc(keys_.columns());
    if (window_.on()) {
      window_.backward(p, *raw.q, *raw.k, *raw.v, p.numbers(inv_freq_), kAttention, *d_sum, *d.q, *d.k, *d.v);
    } else {
      p.clear(*d.q), p.clear(*d.k), p.clear(*d.v);
    }
    if (raw.rates) p.clear(*(d.rates = p.alloc(rates_.columns)));
    if (raw.momenta) p.clear(*(d.momenta = p.alloc(momenta_.columns)));
    if (raw.gates) p.clear(*(d.gates = p.alloc(gates_.columns)));
    back_through_documents(p, course, raw, *d_sum, d);
    p.free(d_sum);
    p.linear_backward(TN_ROLE_Q, *d.q, x, 0, dx), p.linear_backward(TN_ROLE_K, *d.k, x, 1, dx), p.linear_backward(TN_ROLE_V, *d.v, x, 1, dx);
    if (d.rates) back_to(p, rates_, *d.rates, x, dx);
    if (d.momenta) back_to(p, momenta_, *d.momenta, x, dx);
    if (d.gates) back_to(p, gates_, *d.gates, x, dx);
  }

 private:
  // Of x, with its bias added where it is read.
  struct Projection {
    uint32_t weight = 0, bias = 0;
    int64_t columns = 0;
  };
  // The projections of x and what attention made of them, or their gradients.
  struct Raw {
    tn_tensor *q = nullptr, *k = nullptr, *v = nullptr, *rates = nullptr, *momenta = nullptr, *gates = nullptr, *attention = nullptr;
  };
  template <class T>
  static T* rows_of(const tn_tensor* t, int64_t row, int64_t columns) {
    return t ? sdk::data<T>(*t) + row * columns : nullptr;
  }
  StateLayout layout(const tn_dtype& dtype) const {
    return {at_, chunk_, window_.tokens(), window_.row_bytes(dtype), keys_.columns(), rule_.momentum, dtype.bits / 8};
  }

  Feature feature(const sdk::MixerPass& p, int which) const {  // 0: queries, 1: keys, 2: values
    const float* const frequencies = rope_ && which < 2 ? p.numbers(inv_freq_) : nullptr;
    return {which ? keys_ : queries_, at_.heads, silu_, which < 2, which < 2 ? p.numbers(qk_scale_) + which : nullptr, which < 2 ? p.numbers(qk_offset_) + which : nullptr, frequencies};
  }
  template <class T>
  void prepare(const sdk::MixerPass& p, int which, const T* from, int64_t rows, int64_t position, float* to) const {
    sdk::for_each_block(p.exec(), rows, Prepare<T>{feature(p, which), from, position, rows, to}, queries_.count());
  }

  // Applies the weights in use to `rows` rows of the pass from `row` on, at `position`, into sum.
  void apply(const sdk::MixerPass& p, const FastWeights& fast, const Raw& raw, int64_t row, int64_t rows, int64_t position, const tn_tensor& sum) const {
    const int64_t n = queries_.count();
    p.typed([&](auto tag) { prepare(p, 0, rows_of<decltype(tag)>(raw.q, row, n), rows, position, fast.x); });
    fast.apply(rows);
    p.typed([&](auto tag) {
      using T = decltype(tag);
      sdk::for_each_block(p.exec(), rows,
                          Join<T>{at_.heads, at_.d, rows, fast.o, p.numbers(gain_), rows_of<T>(raw.attention, row, n), rows_of<T>(raw.gates, row, at_.heads),
                                  scale_ ? p.numbers(gates_.bias) : nullptr, rows_of<T>(&sum, row, n)},
                          n);
    });
  }

  // What a step needs of a chunk: its projections, from the pass or the decode state.
  template <class T>
  struct Lesson {
    const T *k, *v, *rates, *momenta;
  };
  template <class T>
  Lesson<T> lesson(const Raw& raw, int64_t row) const {
    return {rows_of<T>(raw.k, row, keys_.columns()), rows_of<T>(raw.v, row, keys_.columns()), rows_of<T>(raw.rates, row, rates_.columns), rows_of<T>(raw.momenta, row, at_.heads)};
  }
  template <class T>
  void study(const sdk::MixerPass& p, const FastWeights& fast, const Lesson<T>& from, int64_t position) const {
    prepare(p, 1, from.k, chunk_, position, fast.x), prepare(p, 2, from.v, chunk_, position, fast.v);
    sdk::for_each(p.exec(), chunk_ * rates_.columns, Rates<T>{from.rates, p.numbers(rates_.bias), {at_.heads, chunk_}, base_, fast.lr});
    if (rule_.momentum) sdk::for_each_block(p.exec(), at_.heads, MeanMomentum<T>{from.momenta, p.numbers(momenta_.bias), chunk_, at_.heads, fast.mean}, chunk_);
  }

  int64_t boundary_size() const { return at_.size() * (rule_.momentum ? 2 : 1); }
  FastWeights::Boundary boundary(float* all, int64_t step) const {
    float* const at = shift(all, step * boundary_size());
    return {at, rule_.momentum ? shift(at, at_.size()) : nullptr};
  }
  // Step `step` of a document that begins at `row`; boundaries: one for each step, or one for all.
  void learn(const sdk::MixerPass& p, FastWeights& fast, const Raw& raw, int64_t row, int64_t step, float* boundaries, bool kept) const {
    p.typed([&](auto tag) { study(p, fast, lesson<decltype(tag)>(raw, row + step * chunk_), step * chunk_); });
    fast.learn(chunk_, step ? FastWeights::Source{boundary(boundaries, kept ? step - 1 : 0), true} : FastWeights::Source{}, boundary(boundaries, kept ? step : 0));
  }

  void through_documents(const sdk::MixerPass& p, FastWeights& fast, const Course& course, const Raw& raw, const tn_tensor& sum) const {
    const bool kept = p.saves() && !recompute_;
    float* boundaries = nullptr;
    if (course.learns) boundaries = kept ? sdk::data<float>(*p.keep(kBoundaries, sdk::kF32, {course.steps * boundary_size()})) : p.floats(boundary_size());
    for (const auto& doc : course.documents) {
      fast.start();
      for (int64_t j = 0; j * chunk_ < doc.length; ++j) {
        if (j > 0) learn(p, fast, raw, doc.begin, j - 1, boundaries, kept);
        apply(p, fast, raw, doc.begin + j * chunk_, std::min(chunk_, doc.length - j * chunk_), j * chunk_, sum);
      }
      if (kept) boundaries = shift(boundaries, course.steps_of(doc) * boundary_size());
    }
  }

  // A step is taken when the first token behind its chunk comes; until then the chunk's projections wait in the state.
  void decode(const sdk::MixerPass& p, FastWeights& fast, const Course& course, const State& state, const Raw& raw, const tn_tensor& sum) const {
    int64_t steps = course.past_steps;
    const FastWeights::Boundary held{state.raw, state.momentum};
    fast.start();
    if (steps > 0) fast.use(held);
    for (int64_t row = 0, n; row < p.rows(); row += n) {
      const int64_t position = p.past() + row, within = position % chunk_;
      n = std::min(p.rows() - row, chunk_ - within);
      if (position > 0 && within == 0) {
        if (!state.remembers)
          sdk::fail(TN_E_STATE, "lact was given a decode state for at most " + std::to_string(chunk_) + " tokens and more of them; ask for a state of the sequence's length");
        p.typed([&](auto tag) {
          const Pending<decltype(tag)> at(state);
          study(p, fast, Lesson<decltype(tag)>{at.k, at.v, at.rates, at.momenta}, position - chunk_);
        });
        fast.learn(chunk_, steps ? FastWeights::Source{held, true} : FastWeights::Source{}, held);
        ++steps;
      }
      apply(p, fast, raw, row, n, position, sum);
      if (state.remembers)
        p.typed([&](auto tag) {
          using T = decltype(tag);
          const Lesson<T> from = lesson<T>(raw, row);
          const Pending<T> to(state);
          const auto copy = [&](const T* a, T* b, int64_t columns) {
            sdk::for_each(p.exec(), n * columns, CopyRows<T>{a, 0, n, columns, b, within, chunk_});
          };
          copy(from.k, to.k, keys_.columns()), copy(from.v, to.v, keys_.columns()), copy(from.rates, to.rates, rates_.columns);
          if (rule_.momentum) copy(from.momenta, to.momenta, at_.heads);
        });
    }
  }

  // d.q, d.k and d.v are added to.
  void back_through_documents(const sdk::MixerPass& p, const Course& course, const Raw& raw, const tn_tensor& d_sum, const Raw& d) const {
    FastWeights fast(p, at_, rule_, initial_.values(p), course.longest, course.learns, course.learns, true);
    const int64_t n = queries_.count();
    float *const total = p.zeros(at_.size()), *const parts = p.floats((course.longest + kStrip - 1) / kStrip * 2 * n);
    float* boundaries = nullptr;
    if (course.learns) boundaries = recompute_ ? p.floats(course.most_steps * boundary_size()) : sdk::data<float>(p.kept(kBoundaries));
    for (const auto& doc : course.documents) {
      const int64_t steps = course.steps_of(doc);
      if (recompute_) {
        fast.start();
        for (int64_t s = 0; s < steps; ++s) learn(p, fast, raw, doc.begin, s, boundaries, true);
      }
      for (int64_t j = steps; j >= 0; --j) {
        resume(fast, boundaries, j);
        const int64_t row = doc.begin + j * chunk_, rows = std::min(chunk_, doc.length - j * chunk_);
        p.typed([&](auto tag) { prepare(p, 0, rows_of<decltype(tag)>(raw.q, row, n), rows, j * chunk_, fast.x); });
        fast.apply(rows);
        p.typed([&](auto tag) { join_backward<decltype(tag)>(p, fast, raw, d_sum, row, rows, d, parts); });
        fast.apply_backward(rows);
        p.typed([&](auto tag) { prepare_backward<decltype(tag)>(p, 0, raw.q, row, rows, j * chunk_, fast.dx, fast.o, d.q, parts); });
        if (j == 0) break;
        resume(fast, boundaries, j - 1);
        p.typed([&](auto tag) { study(p, fast, lesson<decltype(tag)>(raw, row - chunk_), (j - 1) * chunk_); });
        fast.learn_backward(chunk_, j > 1 ? FastWeights::Source{boundary(boundaries, j - 2), true} : FastWeights::Source{}, boundary(boundaries, j - 1), j == steps);
        p.typed([&](auto tag) { study_backward<decltype(tag)>(p, fast, raw, row - chunk_, (j - 1) * chunk_, d, parts); });
      }
      fast.finish(total);
      if (!recompute_) boundaries = shift(boundaries, steps * boundary_size());
    }
    fast.finish_norms(total);
    initial_.backward(p, total);
  }
  // The weights of a document's chunk j.
  void resume(FastWeights& fast, float* boundaries, int64_t j) const { j > 0 ? fast.use(boundary(boundaries, j - 1)) : fast.start(); }

  template <class T>
  void join_backward(const sdk::MixerPass& p, const FastWeights& fast, const Raw& raw, const tn_tensor& d_sum, int64_t row, int64_t rows, const Raw& d, float* parts) const {
    const int64_t strips = (rows + kStrip - 1) / kStrip, n = queries_.count();
    sdk::for_each_block(p.exec(), strips,
                        JoinBackward<T>{at_.heads, at_.d, rows, fast.o, p.numbers(gain_), rows_of<T>(raw.gates, row, at_.heads), rows_of<T>(&d_sum, row, n),
                                        scale_ ? p.numbers(gates_.bias) : nullptr, fast.d_o, parts, rows_of<T>(d.gates, row, at_.heads)},
                        kStrip * n);
    if (float* const g = p.numbers_grad(gain_)) sdk::for_each(p.exec(), at_.d, sdk::AddParts{parts, strips, at_.d, g});
  }
  // The gradient of a query, key or value, with scratch as large, to the projection's.
  template <class T>
  void prepare_backward(const sdk::MixerPass& p, int which, const tn_tensor* from, int64_t row, int64_t rows, int64_t position, float* gradient, float* scratch,
                        const tn_tensor* to, float* parts) const {
    const int64_t strips = (rows + kStrip - 1) / kStrip, columns = (which ? keys_ : queries_).columns();
    sdk::for_each_block(p.exec(), strips,
                        PrepareBackward<T>{feature(p, which), rows_of<T>(from, row, columns), position, rows, gradient, scratch, rows_of<T>(to, row, columns), parts},
                        kStrip * queries_.count());
    if (which == 2) return;
    float *const scale = p.numbers_grad(qk_scale_), *const offset = p.numbers_grad(qk_offset_);
    sdk::for_each(p.exec(), queries_.count(), AddChannelParts{parts, strips, queries_.count(), scale ? scale + which : nullptr, offset ? offset + which : nullptr});
  }
  template <class T>
  void study_backward(const sdk::MixerPass& p, const FastWeights& fast, const Raw& raw, int64_t row, int64_t position, const Raw& d, float* parts) const {
    prepare_backward<T>(p, 1, raw.k, row, chunk_, position, fast.dx, fast.o, d.k, parts);
    prepare_backward<T>(p, 2, raw.v, row, chunk_, position, fast.dv, fast.o, d.v, parts);
    const Lesson<T> from = lesson<T>(raw, row);
    sdk::for_each(p.exec(), chunk_ * rates_.columns,
                  RatesBackward<T>{from.rates, p.numbers(rates_.bias), {at_.heads, chunk_}, base_, fast.d_lr, rows_of<T>(d.rates, row, rates_.columns)});
    if (rule_.momentum)
      sdk::for_each(p.exec(), chunk_ * at_.heads,
                    MeanMomentumBackward<T>{from.momenta, p.numbers(momenta_.bias), chunk_, at_.heads, fast.d_mean, rows_of<T>(d.momenta, row, at_.heads)});
  }
  void back_to(const sdk::MixerPass& p, const Projection& of, const tn_tensor& gradient, const tn_tensor& x, tn_tensor* dx) const {
    p.project_backward(of.weight, gradient, x, 1, dx);
    float* const g = p.numbers_grad(of.bias);
    if (g) p.typed([&](auto tag) { sdk::for_each_block(p.exec(), of.columns, AddColumns<decltype(tag)>{sdk::data<decltype(tag)>(gradient), p.rows(), of.columns, g}, p.rows()); });
  }

  int64_t chunk_, rank_;
  double gain_at_start_;
  float base_;
  Rule rule_;
  bool silu_, rope_, scale_, recompute_;
  std::string core_;
  Window window_;
  Layout at_{};
  Channels queries_{}, keys_{};
  InitialWeights initial_{{}, 0};
  std::vector<float> frequencies_;
  Projection rates_, momenta_, gates_;
  uint32_t qk_scale_ = 0, qk_offset_ = 0, gain_ = 0, inv_freq_ = 0;
};

constexpr tn_attention_api kApi = sdk::mixer_attention_api<Lact>();
constexpr tn_mixer_api kMixer = sdk::mixer_api<Lact>();
const void* extension(const char* id) { return std::string_view(id) == TN_EXT_MIXER ? &kMixer : nullptr; }
constexpr tn_plugin kPlugin = sdk::describe(TN_KIND_ATTENTION, "lact", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::lact

TENON_PLUGIN(tenon::lact::kPlugin)
