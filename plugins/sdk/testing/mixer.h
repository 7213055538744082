// One mixer that owns its projections, as a host drives it: the layer's linears as f32 matrices, parameters as declared, tensors of a pass
// full of NaN, a dense f64 core, and a log of what was allocated so that a forecast can be held to it.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <list>
#include <map>
#include <string>
#include <vector>

#include "sdk/attention/reference.h"
#include "sdk/testing/host.h"
#include "sdk/testing/statistics.h"
#include "tenon/mixer.h"

namespace tenon::sdk::testing {

struct MixerSizes {
  int64_t hidden = 8, heads = 2, kv_heads = 1, d = 4;
  int64_t window = 0;
  std::vector<float> inv_freq{};  // empty: as Llama's with a base of 10000
};

struct MixerRows {
  int64_t sequences = 1, length = 1;
  std::vector<std::pair<int64_t, int64_t>> documents{};  // begin, length; empty: one a sequence
  tn_dtype compute = kF32;
  int64_t rows() const { return sequences * length; }
};

class TestMixer {
 public:
  struct Linear {
    int64_t m, n;
    std::vector<float> weight;
    std::vector<double> gradient;
  };
  struct Param {
    tn_mixer_param info;
    std::string key;
    Tensor value, grad;
  };

  TestMixer(const std::string& object, const std::map<std::string, std::string>& hypers, const MixerSizes& sizes, uint32_t seed = 11,
            tn_dtype storage = kF32)
      : sizes(sizes), plugin(load_plugin(host, object)), api(*static_cast<const tn_attention_api*>(plugin.api)), storage_(storage) {
    mixer = static_cast<const tn_mixer_api*>(plugin.get_extension(TN_EXT_MIXER));
    const HyperValues values(plugin, hypers);
    const auto u = [](int64_t x) { return static_cast<uint32_t>(x); };
    const tn_attention_config config{sizeof(tn_attention_config), u(sizes.heads), u(sizes.kv_heads), u(sizes.d), u(sizes.d), 0, 1, 0, u(sizes.heads), 0, 0, 0};
    must(api.create(host.get(), values.data(), values.size(), &config, &self));
    const int64_t q = sizes.heads * sizes.d, k = sizes.kv_heads * sizes.d, n = sizes.hidden;
    const auto add = [&](uint32_t role, int64_t out, int64_t in) {
      linears[role] = {out, in, normals(static_cast<size_t>(out * in), seed + role, 0.5f), std::vector<double>(static_cast<size_t>(out * in))};
    };
    add(TN_ROLE_Q, q, n), add(TN_ROLE_K, k, n), add(TN_ROLE_V, k, n), add(TN_ROLE_O, n, q);
    if (this->sizes.inv_freq.empty())
      for (int64_t i = 0; i < sizes.d / 2; ++i) this->sizes.inv_freq.push_back(static_cast<float>(std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(sizes.d))));
  }
  TestMixer(const TestMixer&) = delete;
  ~TestMixer() {
    if (self) api.destroy(self);
  }
  void must(int32_t status) {
    if (status != TN_OK) fail(status, host.error);
  }

  int32_t bind(uint32_t flags = 0) {
    const tn_mixer_layer layer{sizeof(tn_mixer_layer), flags, sizes.hidden, sizes.window, sizes.inv_freq.data(), 1};
    const tn_mixer_sink sink{sizeof(tn_mixer_sink), 0, this, on_keep, on_param, on_core};
    return mixer->bind(self, &layer, &sink);
  }
  void start(uint64_t seed = 5, bool buffers_only = false) {
    const tn_rng rng{seed, 1000, 9};
    reads_ = !buffers_only;
    run({}, false, false, nullptr, [&](const tn_mixer_ops* ops) { return mixer->start(self, ops, &rng, buffers_only); });
    reads_ = false;
  }
  std::vector<float> forward(const MixerRows& rows, const std::vector<float>& x, bool save = true) {
    Tensor tx(rows.compute, {rows.rows(), sizes.hidden}, x), y(rows.compute, {rows.rows(), sizes.hidden});
    std::memset(y.as<uint8_t>(), 0xFF, y.bytes());
    if (save) saved_.clear();
    run(rows, save, false, nullptr, [&](const tn_mixer_ops* ops) { return mixer->forward(self, ops, tx.get(), y.get()); });
    EXPECT_TRUE(y.intact());
    return y.floats();
  }
  // dx, after forward() of the same rows; gradients of parameters and linears add up.
  std::vector<float> backward(const MixerRows& rows, const std::vector<float>& x, const std::vector<float>& dy, bool want_dx = true) {
    Tensor tx(rows.compute, {rows.rows(), sizes.hidden}, x), tdy(rows.compute, {rows.rows(), sizes.hidden}, dy), dx(rows.compute, {rows.rows(), sizes.hidden});
    std::memset(dx.as<uint8_t>(), 0xFF, dx.bytes());
    run(rows, true, true, nullptr, [&](const tn_mixer_ops* ops) { return mixer->backward(self, ops, tx.get(), tdy.get(), want_dx ? dx.get() : nullptr); });
    EXPECT_TRUE(dx.intact());
    return dx.floats();
  }
  // The same calls on tensors without memory.
  void plan(const MixerRows& rows, bool save) {
    saved_.clear();
    plans_ = true;
    int64_t shape[2] = {rows.rows(), sizes.hidden}, strides[2] = {sizes.hidden, 1};
    tn_tensor x{nullptr, {TN_CPU, 0}, 2, rows.compute, shape, strides, 0}, y = x, dx = x;
    run(rows, save, false, nullptr, [&](const tn_mixer_ops* ops) { return mixer->forward(self, ops, &x, &y); });
    if (save) run(rows, true, true, nullptr, [&](const tn_mixer_ops* ops) { return mixer->backward(self, ops, &x, &y, &dx); });
    plans_ = false;
  }

  struct Sequence {
    Tensor state;
    int64_t past = 0;
  };
  Sequence sequence(int64_t capacity, tn_dtype compute = kF32) {
    tn_attention_state s{};
    s.struct_size = sizeof s;
    must(api.state(self, &compute, capacity, &s));
    return {Tensor(kU8, {static_cast<int64_t>(s.bytes)}), 0};
  }
  std::vector<float> decode(Sequence& s, const std::vector<float>& x, tn_dtype compute = kF32) {
    const int64_t n = static_cast<int64_t>(x.size()) / sizes.hidden;
    Tensor tx(compute, {n, sizes.hidden}, x), y(compute, {n, sizes.hidden});
    run({1, n, {}, compute}, false, false, &s, [&](const tn_mixer_ops* ops) { return mixer->forward(self, ops, tx.get(), y.get()); });
    EXPECT_TRUE(s.state.intact());
    s.past += n;
    return y.floats();
  }
  void zero_gradients() {
    for (Param& p : params) p.grad.assign(std::vector<float>(static_cast<size_t>(p.grad.size())));
    for (auto& [role, l] : linears) l.gradient.assign(l.gradient.size(), 0.0);
  }
  Param& param(const std::string& key) {
    for (Param& p : params)
      if (p.key == key) return p;
    fail(TN_E_NOT_FOUND, "the mixer has no parameter " + key);
  }
  uint64_t saved_bytes() const {
    uint64_t n = 0;
    for (const auto& [slot, t] : saved_) n += t.bytes();
    return n;
  }

  FakeHost host;
  MixerSizes sizes;
  const tn_plugin& plugin;
  const tn_attention_api& api;
  const tn_mixer_api* mixer = nullptr;
  tn_attention* self = nullptr;
  std::map<uint32_t, Linear> linears;  // by role
  std::vector<uint32_t> kept;
  std::deque<Param> params;
  std::vector<uint64_t> allocations;  // bytes, in order, of the calls so far
  std::vector<tn_attention_config> cores;
  std::vector<int64_t> windows;

 private:
  static TestMixer& of(void* self) { return *static_cast<TestMixer*>(self); }
  static int32_t on_keep(void* self, uint32_t role) { return of(self).kept.push_back(role), TN_OK; }
  static int32_t on_param(void* self, const tn_mixer_param* p) {
    TestMixer& t = of(self);
    EXPECT_EQ(p->id, t.params.size());
    const tn_dtype dtype = (p->flags & TN_MIXER_PARAM_F32) || p->ndim == 1 ? kF32 : t.storage_;
    const std::vector<int64_t> shape(p->shape, p->shape + p->ndim);
    t.params.push_back({*p, p->key, Tensor(dtype, shape), Tensor(kF32, shape)});
    return TN_OK;
  }
  static int32_t on_core(void* self, const char*, const tn_attention_config* config, int64_t window, uint32_t* id) {
    TestMixer& t = of(self);
    *id = static_cast<uint32_t>(t.cores.size());
    return t.cores.push_back(*config), t.windows.push_back(window), TN_OK;
  }

  // A tensor of a pass: with memory full of NaN, or none.
  struct Lent {
    Tensor memory;
    std::vector<int64_t> shape, strides;
    tn_tensor view;
  };
  static int32_t lend(TestMixer& t, std::list<Lent>& to, int32_t ndim, const int64_t* shape, const tn_dtype* dtype, tn_tensor** out) {
    const DeviceMemory::Reach reach;
    std::vector<int64_t> dims(shape, shape + ndim);
    uint64_t bytes = dtype->bits / 8;
    for (int64_t d : dims) bytes *= static_cast<uint64_t>(d);
    t.allocations.push_back(bytes);
    Lent& l = to.emplace_back(Lent{Tensor(*dtype, t.plans_ ? std::vector<int64_t>{0} : dims), dims, std::vector<int64_t>(dims.size(), 1), {}});
    for (size_t i = dims.size(); i-- > 1;) l.strides[i - 1] = l.strides[i] * dims[i];
    if (!t.plans_) std::memset(l.memory.as<uint8_t>(), 0xFF, l.memory.bytes());
    l.view = {t.plans_ ? nullptr : l.memory.as<uint8_t>(), {TN_CPU, 0}, ndim, *dtype, l.shape.data(), l.strides.data(), 0};
    return *out = &l.view, TN_OK;
  }
  static int32_t alloc(void* self, int32_t ndim, const int64_t* shape, const tn_dtype* dtype, tn_tensor** out) {
    return lend(of(self), of(self).lent_, ndim, shape, dtype, out);
  }
  static void free(void* self, tn_tensor* tensor) {
    const DeviceMemory::Reach reach;
    of(self).lent_.remove_if([&](Lent& l) {
      EXPECT_TRUE(l.memory.intact());
      return &l.view == tensor;
    });
  }
  static int32_t gemm(void* self, const tn_tensor* a, const tn_tensor* b, double alpha, double beta, tn_tensor* c) {
    const DeviceMemory::Reach reach;
    if (of(self).plans_) return TN_OK;
    tn_gemm g{};
    g.struct_size = sizeof g, g.a = a, g.b = b, g.c = c, g.alpha = alpha, g.beta = beta;
    uint64_t bytes = 0;
    fake::gemm_workspace(nullptr, &g, &bytes);
    std::vector<uint8_t> workspace(bytes);
    return fake::gemm(nullptr, nullptr, &g, workspace.data(), bytes);
  }
  static double at(const tn_tensor& t, int64_t i) { return with_float_type(t.dtype, "a test tensor", [&]<class T>(T) { return double{to_float(data<T>(t)[i])}; }); }
  static void put(const tn_tensor& t, int64_t i, double x) {
    with_float_type(t.dtype, "a test tensor", [&]<class T>(T) { data<T>(t)[i] = from_float<T>(static_cast<float>(x)); });
  }
  static int32_t axpby(void* self, double alpha, const tn_tensor* x, double beta, tn_tensor* y) {
    const DeviceMemory::Reach reach;
    if (of(self).plans_) return TN_OK;
    EXPECT_TRUE(is_contiguous(*x) && is_contiguous(*y));
    for (int64_t i = 0; i < count(*y); ++i) put(*y, i, alpha * at(*x, i) + (beta != 0 ? beta * at(*y, i) : 0));
    return TN_OK;
  }
  static int32_t linear(void* self, uint32_t role, const tn_tensor* x, tn_tensor* y) {
    const DeviceMemory::Reach reach;
    if (of(self).plans_) return TN_OK;
    const Linear& l = of(self).linears.at(role);
    for (int64_t t = 0; t < x->shape[0]; ++t)
      for (int64_t i = 0; i < l.m; ++i) {
        double sum = 0;
        for (int64_t j = 0; j < l.n; ++j) sum += at(*x, t * x->strides[0] + j) * l.weight[i * l.n + j];
        put(*y, t * y->strides[0] + i, sum);
      }
    return TN_OK;
  }
  static int32_t linear_backward(void* self, uint32_t role, const tn_tensor* dy, const tn_tensor* x, double beta, tn_tensor* dx) {
    const DeviceMemory::Reach reach;
    if (of(self).plans_) return TN_OK;
    Linear& l = of(self).linears.at(role);
    for (int64_t t = 0; t < x->shape[0]; ++t)
      for (int64_t j = 0; j < l.n; ++j) {
        double sum = 0;
        for (int64_t i = 0; i < l.m; ++i) {
          const double d = at(*dy, t * dy->strides[0] + i);
          sum += d * l.weight[i * l.n + j];
          l.gradient[i * l.n + j] += d * at(*x, t * x->strides[0] + j);
        }
        if (dx) put(*dx, t * dx->strides[0] + j, sum + (beta != 0 ? beta * at(*dx, t * dx->strides[0] + j) : 0));
      }
    return TN_OK;
  }

  static std::vector<double> dense(const tn_tensor& t) {
    std::vector<double> out;
    for (int64_t r = 0; r < t.shape[0]; ++r)
      for (int64_t h = 0; h < t.shape[1]; ++h)
        for (int64_t c = 0; c < t.shape[2]; ++c) out.push_back(at(t, r * t.strides[0] + h * t.strides[1] + c * t.strides[2]));
    return out;
  }
  static void store(const tn_tensor& t, const std::vector<double>& x) {
    size_t i = 0;
    for (int64_t r = 0; r < t.shape[0]; ++r)
      for (int64_t h = 0; h < t.shape[1]; ++h)
        for (int64_t c = 0; c < t.shape[2]; ++c) put(t, r * t.strides[0] + h * t.strides[1] + c * t.strides[2], x[i++]);
  }
  DenseAttention dense_core(uint32_t id, const tn_tensor& q, const tn_tensor& k, const tn_tensor& v) const {
    const tn_attention_config& c = cores.at(id);
    EXPECT_TRUE(q.shape[1] == c.n_heads && k.shape[1] == c.n_kv_heads && q.shape[2] == c.d_qk && v.shape[2] == c.d_v);
    const int64_t batch = decoding_ ? 1 : rows_.sequences;
    DenseAttention a{batch, q.shape[0] / batch, k.shape[0] / batch, c.n_heads, c.n_kv_heads, c.d_qk, c.d_v, c.scale, c.softcap};
    a.mask = {{sizeof(tn_mask_term), TN_MASK_CAUSAL, 0, 0, 0}};
    if (windows.at(id) > 0) a.mask.push_back({sizeof(tn_mask_term), TN_MASK_WINDOW, windows[id] - 1, -1, 0});
    if (decoding_) a.q_pos = k.shape[0] - q.shape[0];
    if (!decoding_ && !rows_.documents.empty()) {
      a.batch = 1, a.t_q = a.t_k = q.shape[0];
      for (const auto& [begin, length] : rows_.documents) a.segments.push_back({begin, length, begin, length, 0, 0});
    }
    a.q = dense(q), a.k = dense(k), a.v = dense(v);
    return a;
  }
  static int32_t core(void* self, uint32_t id, const tn_tensor* q, const tn_tensor* k, const tn_tensor* v, tn_tensor* o, tn_tensor* lse) {
    const DeviceMemory::Reach reach;
    if (of(self).plans_) return TN_OK;
    const auto out = of(self).dense_core(id, *q, *k, *v).forward();
    store(*o, out.o);
    if (lse)
      for (size_t i = 0; i < out.lse.size(); ++i) put(*lse, static_cast<int64_t>(i), out.lse[i]);
    return TN_OK;
  }
  static int32_t core_backward(void* self, uint32_t id, const tn_tensor* q, const tn_tensor* k, const tn_tensor* v, const tn_tensor*, const tn_tensor*,
                               const tn_tensor* d_o, tn_tensor* dq, tn_tensor* dk, tn_tensor* dv) {
    const DeviceMemory::Reach reach;
    if (of(self).plans_) return TN_OK;
    const auto g = of(self).dense_core(id, *q, *k, *v).backward(dense(*d_o), {});
    return store(*dq, g.dq), store(*dk, g.dk), store(*dv, g.dv), TN_OK;
  }
  static int32_t read_rows(void* self, uint32_t role, int64_t begin, int64_t end, tn_tensor* out) {
    const DeviceMemory::Reach reach;
    if (!of(self).reads_) return TN_E_STATE;
    const Linear& l = of(self).linears.at(role);
    for (int64_t i = begin; i < end; ++i)
      for (int64_t j = 0; j < l.n; ++j) put(*out, (i - begin) * out->strides[0] + j, l.weight[i * l.n + j]);
    return TN_OK;
  }
  static int32_t save_alloc(void* self, uint32_t slot, int32_t ndim, const int64_t* shape, const tn_dtype* dtype, tn_tensor** out) {
    TestMixer& t = of(self);
    t.allocations.push_back(static_cast<uint64_t>(slot));
    int32_t status = lend(t, t.kept_, ndim, shape, dtype, out);
    t.saved_.erase(slot);
    t.saved_.emplace(slot, Slot{&t.kept_.back(), {}});
    return status;
  }
  static int32_t save_get(void* self, uint32_t slot, const tn_saved** out) {
    Slot& s = of(self).saved_.at(slot);
    s.loan = {sizeof(tn_saved), 0, &s.lent->view, nullptr, nullptr};
    return *out = &s.loan, TN_OK;
  }
  static int32_t no_input(void*, uint32_t) { return TN_E_STATE; }

  void run(const MixerRows& rows, bool save, bool gradients, Sequence* sequence, const std::function<int32_t(const tn_mixer_ops*)>& body) {
    rows_ = rows, decoding_ = sequence != nullptr;
    std::list<tn_param_view> views;
    std::vector<const tn_param_view*> pointers;
    for (Param& p : params)
      pointers.push_back(&views.emplace_back(tn_param_view{sizeof(tn_param_view), p.info.id, p.value.get(),
                                                           gradients && !(p.info.flags & TN_MIXER_PARAM_BUFFER) ? p.grad.get() : nullptr}));
    std::vector<int64_t> begin, length, zeros, position_shape{rows.rows()}, one{1};
    Tensor positions(kI32, {rows.rows()});
    for (int64_t r = 0; r < rows.rows(); ++r) positions.as<int32_t>()[r] = static_cast<int32_t>((sequence ? sequence->past : 0) + r % rows.length);
    for (const auto& [b, n] : rows.documents) {
      begin.push_back(b), length.push_back(n), zeros.push_back(0);
      for (int64_t i = 0; i < n; ++i) positions.as<int32_t>()[b + i] = static_cast<int32_t>(i);
    }
    const tn_segments segments{sizeof(tn_segments), static_cast<uint32_t>(begin.size()), begin.data(), length.data(), begin.data(), length.data(), zeros.data(), zeros.data()};
    const Exec exec;
    const tn_saver saver{sizeof(tn_saver), 0, this, no_input, save_alloc, save_get};
    const uint32_t flags = (plans_ ? uint32_t{TN_MIXER_PLAN} : 0u) | (save ? uint32_t{TN_MIXER_SAVE} : 0u) | (sequence ? uint32_t{TN_MIXER_DECODE} : 0u);
    const tn_mixer_ops ops{sizeof(tn_mixer_ops), flags, this, exec.get(), save ? &saver : nullptr, pointers.data(), pointers.size(), rows.rows(), sizes.hidden,
                           rows.sequences, rows.length, begin.empty() ? nullptr : &segments, positions.get(), rows.compute, {}, sequence ? sequence->past : 0,
                           sequence ? sequence->state.get() : nullptr, alloc, free, gemm, axpby, linear,
                           linear_backward, core, core_backward, read_rows};
    const int32_t status = body(&ops);
    EXPECT_TRUE(exec.intact());
    for (const Lent& l : lent_) EXPECT_TRUE(l.memory.intact());
    for (const Param& p : params) EXPECT_TRUE(p.value.intact() && p.grad.intact());
    lent_.clear();
    must(status);
  }

  struct Slot {
    Lent* lent;
    tn_saved loan;
    uint64_t bytes() const { return lent->memory.bytes(); }
  };
  tn_dtype storage_;
  bool plans_ = false, reads_ = false, decoding_ = false;
  MixerRows rows_;
  std::list<Lent> lent_, kept_;
  std::map<uint32_t, Slot> saved_;
};

}  // namespace tenon::sdk::testing
