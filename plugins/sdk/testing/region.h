// A stack of small blocks in f32 as a host of org.tenon.region/1 offers it, for tests of what an adapter does with them: which blocks it runs, on
// what, what it keeps, and what reaches its gradients.
//
// A half of a block of the model is y = carry · x + strength · tanh(x W); a block that the adapter adds is y = x + tanh(x Qᵀ) Oᵀ.
#pragma once

#include <cmath>
#include <list>

#include "sdk/testing/adapter.h"
#include "tenon/region.h"

namespace tenon::sdk::testing {

class TestRegion {
 public:
  struct Size {
    int64_t blocks, hidden, intermediate = 16, heads = 2, kv_heads = 2, vocab = 11, rows = 5;
  };
  struct Call {
    uint32_t block, part;
    std::vector<float> x;
    bool kept;  // for a backward
  };

  TestRegion(const std::string& object, const TestAdapter::Options& hypers, Size s)
      : size(s), plugin(load_plugin(host, object)), api(*static_cast<const tn_adapter_api*>(plugin.api)),
        region(*static_cast<const tn_region_api*>(plugin.get_extension(TN_EXT_REGION))) {
    const HyperValues values(plugin, hypers);
    must(api.create(host.get(), values.data(), values.size(), nullptr, &self_));
    const int64_t head = s.hidden / s.heads, kv = s.kv_heads * head;
    const int64_t shapes[7][2] = {{s.hidden, s.hidden}, {kv, s.hidden}, {kv, s.hidden}, {s.hidden, s.hidden}, {s.intermediate, s.hidden}, {s.intermediate, s.hidden}, {s.hidden, s.intermediate}};
    for (int64_t b = 0; b < s.blocks; ++b)
      for (int64_t k = 0; k < 7; ++k)
        weights.push_back({shapes[k][0], shapes[k][1], normals(shapes[k][0] * shapes[k][1], static_cast<uint32_t>(100 + 7 * b + k), 0.5f), {}, 0, {}});
    weights.push_back({s.vocab, s.hidden, normals(s.vocab * s.hidden, 99), {}, 0, {}});  // the embedding
    for (int64_t h = 0; h < 2 * s.blocks; ++h)
      halves.push_back(normals(s.hidden * s.hidden, static_cast<uint32_t>(500 + h), 1 / std::sqrt(static_cast<float>(s.hidden))));
    const tn_region_model model{sizeof model, static_cast<uint32_t>(s.blocks), s.hidden, s.intermediate, static_cast<uint32_t>(s.heads), static_cast<uint32_t>(s.kv_heads),
                                static_cast<uint32_t>(head), 0, s.vocab, this, on_read_rows};
    const tn_region_sink sink{sizeof sink, 0, this, on_param, on_block};
    must(region.bind(self_, &model, &sink));
    for (size_t i = 0; i < params.size(); ++i) {
      const tn_rng rng{5, static_cast<uint32_t>(i), 9};
      Exec exec(256 << 10);
      const tn_base_linear table = params[i].base ? params[i].base->table() : tn_base_linear{};
      must(api.init_param(self_, exec.get(), static_cast<uint32_t>(i), params[i].base ? &table : nullptr, &rng, params[i].value.get()));
    }
  }
  TestRegion(const TestRegion&) = delete;
  ~TestRegion() { api.destroy(self_); }
  void must(int32_t status) {
    if (status != TN_OK) fail(status, host.error);
  }

  // What the head reads; saves: a backward follows.
  std::vector<float> forward(const std::vector<float>& x, bool saves = true) {
    live_.clear(), tokens_.clear(), calls.clear();
    Tensor in(kF32, {size.rows, size.hidden}, x), y(kF32, {size.rows, size.hidden});
    run(saves ? uint32_t{TN_REGION_SAVE} : 0u, [&](const tn_region_ops* ops) { return region.forward(self_, ops, in.get(), y.get()); });
    return y.floats();
  }
  // dx where it is wanted; parameter gradients start from zero.
  std::vector<float> backward(const std::vector<float>& dy, bool wanted) {
    for (Param& p : params) p.grad.assign(std::vector<float>(static_cast<size_t>(p.grad.size())));
    Tensor in(kF32, {size.rows, size.hidden}, dy), dx(kF32, {size.rows, size.hidden});
    run(TN_REGION_SAVE, [&](const tn_region_ops* ops) { return region.backward(self_, ops, in.get(), wanted ? dx.get() : nullptr); });
    return dx.floats();
  }
  // Of the tensors of the pass that stay for backward, the inputs under tokens not among them.
  uint64_t kept_bytes() const {
    uint64_t n = 0;
    for (const Tensor& t : live_) n += t.bytes();
    return n;
  }
  std::vector<std::vector<float>> gradients() const {
    std::vector<std::vector<float>> out;
    for (const Param& p : params) out.push_back(p.grad.floats());
    return out;
  }

  struct Param {
    tn_adapter_param info;
    std::string key;
    Base* base;
    Tensor value, grad;
  };
  Param& param(const std::string& end) {
    for (Param& p : params)
      if (p.key.ends_with(end)) return p;
    fail(TN_E_NOT_FOUND, "no parameter of the region ends with " + end);
  }

  Size size;
  float carry = 1, strength = 0.5f;
  tn_rng rng{17, 3 << 16, 1};              // of the passes
  std::deque<Base> weights;                // 7 a block, q … down, then the embedding; what blocks start from, not what they compute with
  std::vector<std::vector<float>> halves;  // [hidden, hidden] each: what they compute with
  std::vector<Call> calls;                 // of block_forward since the last forward
  int64_t backbone_backwards = 0;          // block_backward of the model's own
  std::deque<Param> params;
  FakeHost host;
  const tn_plugin& plugin;
  const tn_adapter_api& api;
  const tn_region_api& region;

 private:
  struct Added {
    uint32_t q, o;  // params
    int64_t hidden;
  };
  struct Token {
    uint32_t block, part;
    std::vector<float> x;
  };
  using Values = std::vector<double>;

  static int32_t on_read_rows(void* self, int32_t block, uint32_t slot, int64_t begin, int64_t end, tn_tensor* out) {
    TestRegion& r = *static_cast<TestRegion*>(self);
    return Base::read_rows(block < 0 ? &r.weights.back() : &r.weights.at(static_cast<size_t>(7 * block + static_cast<int32_t>(slot))), begin, end, out);
  }
  static int32_t on_param(void* self, const tn_adapter_param* p) {
    TestRegion& r = *static_cast<TestRegion*>(self);
    EXPECT_EQ(p->id, r.params.size());
    const std::vector<int64_t> shape(p->shape, p->shape + p->ndim);
    r.params.push_back({*p, p->file_key, nullptr, Tensor(kF32, shape), Tensor(kF32, shape)});
    return TN_OK;
  }
  static int32_t on_block(void* self, const tn_side_block* b, uint32_t* id) {
    TestRegion& r = *static_cast<TestRegion*>(self);
    const int64_t q = b->heads * b->head_dim, kv = b->kv_heads * b->head_dim;
    const int64_t shapes[9][2] = {{b->hidden, 0}, {b->hidden, 0}, {q, b->hidden}, {kv, b->hidden}, {kv, b->hidden}, {b->hidden, q}, {b->intermediate, b->hidden}, {b->intermediate, b->hidden}, {b->hidden, b->intermediate}};
    const char* names[9] = {"norm1", "norm2", "q", "k", "v", "o", "gate", "up", "down"};
    *id = static_cast<uint32_t>(r.size.blocks + static_cast<int64_t>(r.added_.size()));
    r.added_.push_back({static_cast<uint32_t>(r.params.size() + 2), static_cast<uint32_t>(r.params.size() + 5), b->hidden});
    for (int k = 0; k < 9; ++k) {
      const std::string key = std::string(b->key) + "." + names[k];
      const tn_adapter_param p{sizeof p, static_cast<uint32_t>(r.params.size()), -1, TN_ADAPTER_PARAM_TRAINABLE, shapes[k][1] ? 2 : 1, 0, {shapes[k][0], shapes[k][1], 0, 0}, 1, 1, key.c_str()};
      on_param(self, &p);
      if (k >= 2 && b->like >= 0) r.params.back().base = &r.weights.at(static_cast<size_t>(7 * b->like + k - 2));
    }
    return TN_OK;
  }

  void run(uint32_t flags, const std::function<int32_t(const tn_region_ops*)>& call) {
    std::deque<tn_param_view> views;
    std::vector<const tn_param_view*> pointers;
    for (size_t i = 0; i < params.size(); ++i)
      pointers.push_back(&views.emplace_back(tn_param_view{sizeof(tn_param_view), static_cast<uint32_t>(i), params[i].value.get(),
                                                           params[i].info.flags & TN_ADAPTER_PARAM_TRAINABLE ? params[i].grad.get() : nullptr}));
    Exec exec;
    const tn_region_ops ops{sizeof ops, flags, this, exec.get(), pointers.data(), pointers.size(), size.rows, size.hidden, kF32, on_alloc, on_free, on_gemm, on_axpby,
                            on_norm, on_norm_backward, on_forward, on_backward, rng};
    const int32_t status = call(&ops);
    EXPECT_TRUE(exec.intact());
    must(status);
  }

  static float at(const tn_tensor& t, int64_t i, int64_t j) { return Base::at(t, i, j); }
  static Values values(const tn_tensor& t) {
    const float* from = data<float>(t);
    return {from, from + count(t)};
  }
  static int32_t on_alloc(void* self, int32_t ndim, const int64_t* shape, const tn_dtype* dtype, tn_tensor** out) {
    const DeviceMemory::Reach reach;
    auto& live = static_cast<TestRegion*>(self)->live_;
    live.emplace_back(*dtype, std::vector<int64_t>(shape, shape + ndim));
    live.back().assign(std::vector<float>(static_cast<size_t>(live.back().size()), NAN));  // contents are undefined
    return *out = live.back().get(), TN_OK;
  }
  static void on_free(void* self, tn_tensor* t) {
    const DeviceMemory::Reach reach;
    static_cast<TestRegion*>(self)->live_.remove_if([&](Tensor& held) { return held.get() == t; });
  }
  static int32_t on_gemm(void*, const tn_tensor* a, const tn_tensor* b, double alpha, double beta, tn_tensor* c) {
    const DeviceMemory::Reach reach;
    for (int64_t i = 0; i < c->shape[0]; ++i)
      for (int64_t j = 0; j < c->shape[1]; ++j) {
        double sum = 0;
        for (int64_t k = 0; k < a->shape[1]; ++k) sum += double{at(*a, i, k)} * at(*b, k, j);
        Base::put(*c, i, j, alpha * sum + (beta != 0 ? beta * at(*c, i, j) : 0));
      }
    return TN_OK;
  }
  static int32_t on_axpby(void*, double alpha, const tn_tensor* x, double beta, tn_tensor* y) {
    const DeviceMemory::Reach reach;
    const float* from = data<float>(*x);
    float* to = data<float>(*y);
    for (int64_t i = 0; i < count(*y); ++i) to[i] = static_cast<float>((alpha != 0 ? alpha * from[i] : 0) + (beta != 0 ? beta * to[i] : 0));
    return TN_OK;
  }
  static double gain_at(const tn_tensor* gain, int64_t j) { return gain ? data<float>(*gain)[j] : 1; }
  static int32_t on_norm(void*, const tn_tensor* x, const tn_tensor* gain, tn_tensor* y, tn_tensor* rstd) {
    const DeviceMemory::Reach reach;
    const int64_t n = x->shape[1];
    for (int64_t t = 0; t < x->shape[0]; ++t) {
      double squares = 1e-6 * static_cast<double>(n);
      for (int64_t j = 0; j < n; ++j) squares += double{at(*x, t, j)} * at(*x, t, j);
      const double scale = 1 / std::sqrt(squares / static_cast<double>(n));
      if (rstd) data<float>(*rstd)[t] = static_cast<float>(scale);
      for (int64_t j = 0; j < n; ++j) Base::put(*y, t, j, scale * at(*x, t, j) * gain_at(gain, j));
    }
    return TN_OK;
  }
  static int32_t on_norm_backward(void*, const tn_tensor* dy, const tn_tensor* x, const tn_tensor* gain, const tn_tensor* rstd, double beta, tn_tensor* dx, tn_tensor* dgain) {
    const DeviceMemory::Reach reach;
    const int64_t n = x->shape[1];
    for (int64_t t = 0; t < x->shape[0]; ++t) {
      const double scale = data<float>(*rstd)[t];
      double dot = 0;
      for (int64_t j = 0; j < n; ++j) dot += double{at(*dy, t, j)} * gain_at(gain, j) * at(*x, t, j);
      for (int64_t j = 0; j < n; ++j) {
        if (dgain) data<float>(*dgain)[j] += static_cast<float>(at(*dy, t, j) * at(*x, t, j) * scale);
        const double g = scale * (at(*dy, t, j) * gain_at(gain, j) - at(*x, t, j) * scale * scale * dot / static_cast<double>(n));
        Base::put(*dx, t, j, g + (beta != 0 ? beta * at(*dx, t, j) : 0));
      }
    }
    return TN_OK;
  }

  // rows × columns · columns × n; a transpose by its strides.
  static Values product(const Values& a, const Values& b, int64_t rows, int64_t columns, int64_t n, bool b_transposed) {
    Values c(static_cast<size_t>(rows * n));
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < n; ++j)
        for (int64_t k = 0; k < columns; ++k) c[i * n + j] += a[i * columns + k] * (b_transposed ? b[j * columns + k] : b[k * n + j]);
    return c;
  }
  Values half(const Values& x, size_t h) const {
    Values y = product(x, {halves[h].begin(), halves[h].end()}, size.rows, size.hidden, size.hidden, false);
    for (size_t i = 0; i < y.size(); ++i) y[i] = carry * x[i] + strength * std::tanh(y[i]);
    return y;
  }
  Values half_backward(const Values& x, const Values& d, size_t h) const {
    const Values w(halves[h].begin(), halves[h].end());
    Values u = product(x, w, size.rows, size.hidden, size.hidden, false);
    for (size_t i = 0; i < u.size(); ++i) u[i] = d[i] * strength * (1 - std::tanh(u[i]) * std::tanh(u[i]));
    Values dx = product(u, w, size.rows, size.hidden, size.hidden, true);
    for (size_t i = 0; i < dx.size(); ++i) dx[i] += carry * d[i];
    return dx;
  }
  static int32_t on_forward(void* self, uint32_t block, uint32_t part, const tn_tensor* x, tn_tensor** y, uint64_t* token) {
    const DeviceMemory::Reach reach;
    TestRegion& r = *static_cast<TestRegion*>(self);
    Values v = values(*x);
    const std::vector<float> kept(v.begin(), v.end());
    r.calls.push_back({block, part, kept, token != nullptr});
    if (token) r.tokens_[*token = ++r.next_] = {block, part, kept};
    if (static_cast<int64_t>(block) < r.size.blocks) {
      if (part != TN_BLOCK_MLP) v = r.half(v, 2 * block);
      if (part != TN_BLOCK_ATTENTION) v = r.half(v, 2 * block + 1);
    } else {
      const Added& a = r.added_.at(block - static_cast<size_t>(r.size.blocks));
      Values u = product(v, values(*r.params[a.q].value.get()), r.size.rows, a.hidden, a.hidden, true);
      for (double& e : u) e = std::tanh(e);
      u = product(u, values(*r.params[a.o].value.get()), r.size.rows, a.hidden, a.hidden, true);
      for (size_t i = 0; i < v.size(); ++i) v[i] += u[i];
    }
    on_alloc(self, 2, x->shape, &kF32, y);
    std::copy(v.begin(), v.end(), data<float>(**y));
    return TN_OK;
  }
  static int32_t on_backward(void* self, uint64_t token, tn_tensor* d) {
    const DeviceMemory::Reach reach;
    TestRegion& r = *static_cast<TestRegion*>(self);
    const Token t = r.tokens_.at(token);
    r.tokens_.erase(token);
    const Values x(t.x.begin(), t.x.end());
    Values g = values(*d);
    if (static_cast<int64_t>(t.block) < r.size.blocks) {
      ++r.backbone_backwards;
      if (t.part != TN_BLOCK_ATTENTION) g = r.half_backward(t.part == TN_BLOCK_MLP ? x : r.half(x, 2 * t.block), g, 2 * t.block + 1);
      if (t.part != TN_BLOCK_MLP) g = r.half_backward(x, g, 2 * t.block);
    } else {
      const Added& a = r.added_.at(t.block - static_cast<size_t>(r.size.blocks));
      Param &q = r.params[a.q], &o = r.params[a.o];
      Values u = product(x, values(*q.value.get()), r.size.rows, a.hidden, a.hidden, true);
      for (double& e : u) e = std::tanh(e);
      Values du = product(g, values(*o.value.get()), r.size.rows, a.hidden, a.hidden, false);
      for (size_t i = 0; i < u.size(); ++i) du[i] *= 1 - u[i] * u[i];
      for (int64_t i = 0; i < a.hidden; ++i)
        for (int64_t j = 0; j < a.hidden; ++j)
          for (int64_t k = 0; k < r.size.rows; ++k) {
            data<float>(*o.grad.get())[i * a.hidden + j] += static_cast<float>(g[k * a.hidden + i] * u[k * a.hidden + j]);
            data<float>(*q.grad.get())[i * a.hidden + j] += static_cast<float>(du[k * a.hidden + i] * x[k * a.hidden + j]);
          }
      const Values dx = product(du, values(*q.value.get()), r.size.rows, a.hidden, a.hidden, false);
      for (size_t i = 0; i < g.size(); ++i) g[i] += dx[i];
    }
    std::copy(g.begin(), g.end(), data<float>(*d));
    return TN_OK;
  }

  tn_adapter* self_ = nullptr;
  std::vector<Added> added_;
  std::list<Tensor> live_;
  std::map<uint64_t, Token> tokens_;
  uint64_t next_ = 0;
};

}  // namespace tenon::sdk::testing
