// A class becomes a mixer that owns its projections (org.tenon.mixer/1), and what such a class writes its pass with.
//
//   struct Method {
//     Method(const tn_host*, const Hypers&, const tn_attention_config&);
//     void supports(const tn_query&) const;
//     void state(const tn_dtype&, int64_t tokens, tn_attention_state&) const;
//     void bind(const tn_mixer_layer&, const MixerDeclarer&);
//     void start(const MixerPass&, const tn_rng&, bool buffers_only);
//     void forward(const MixerPass&, const tn_tensor& x, tn_tensor& y);
//     void backward(const MixerPass&, const tn_tensor& x, const tn_tensor& dy, tn_tensor* dx);
//   };
#pragma once

#include <algorithm>
#include <string_view>
#include <vector>

#include "sdk/attention.h"
#include "sdk/device_memory.h"
#include "sdk/linalg/matrix.h"
#include "tenon/mixer.h"

namespace tenon::sdk {

// Where a part of a buffer begins; a plan has no memory.
inline float* shift(float* p, int64_t n) { return p ? p + n : nullptr; }
inline const float* shift(const float* p, int64_t n) { return p ? p + n : nullptr; }

// The host's operators during one call.
class MixerPass {
 public:
  explicit MixerPass(const tn_mixer_ops& ops) : ops_(ops) {}

  bool plans() const { return (ops_.flags & TN_MIXER_PLAN) != 0; }  // contents must not be touched
  bool saves() const { return (ops_.flags & TN_MIXER_SAVE) != 0; }
  bool decodes() const { return (ops_.flags & TN_MIXER_DECODE) != 0; }
  const tn_exec* exec() const { return ops_.exec; }
  int64_t rows() const { return ops_.rows; }
  int64_t hidden() const { return ops_.hidden; }
  int64_t past() const { return ops_.past; }
  tn_dtype compute() const { return ops_.compute; }
  const int32_t* positions() const { return plans() ? nullptr : contiguous<int32_t>(ops_.positions, "positions"); }
  const tn_mixer_ops& ops() const { return ops_; }
  tn_tensor& state() const { return *ops_.state; }

  const tn_tensor& value(uint32_t param) const { return *ops_.params[param]->value; }
  tn_tensor* grad(uint32_t param) const { return ops_.params[param]->grad; }
  Matrix weight(uint32_t param) const { return Matrix::of(value(param)); }
  // Of a parameter declared in f32.
  const float* numbers(uint32_t param) const { return plans() ? nullptr : contiguous<float>(ops_.params[param]->value, "a mixer's parameter"); }
  float* numbers_grad(uint32_t param) const { return plans() || !grad(param) ? nullptr : contiguous<float>(grad(param), "a mixer's gradient"); }

  tn_tensor* alloc(int64_t columns) const { return alloc(ops_.compute, {rows(), columns}); }
  tn_tensor* alloc(tn_dtype dtype, std::initializer_list<int64_t> shape) const {
    tn_tensor* out = nullptr;
    check(ops_.alloc(ops_.self, static_cast<int32_t>(shape.size()), shape.begin(), &dtype, &out));
    return out;
  }
  float* floats(int64_t n) const { return data<float>(*alloc(kF32, {n})); }  // until the call ends
  float* zeros(int64_t n) const {
    float* const to = floats(std::max<int64_t>(n, 1));
    if (!plans()) fill_device(exec(), to, 0, static_cast<uint64_t>(n) * sizeof(float));
    return to;
  }
  void clear(const tn_tensor& t) const {
    if (!plans()) fill_device(exec(), data<char>(t), 0, static_cast<uint64_t>(count(t)) * (t.dtype.bits / 8));
  }
  // body(T{}) with the type of activations, unless nothing is to be computed.
  template <class Body>
  void typed(Body&& body) const {
    if (plans()) return;
    if (same(compute(), kBF16))
      body(bf16{});
    else
      body(float{});
  }
  void free(tn_tensor*& t) const {
    if (t) ops_.free(ops_.self, t);
    t = nullptr;
  }
  // A tensor that lives until backward; where nothing is to be saved, until the call ends.
  tn_tensor* keep(uint32_t slot, tn_dtype dtype, std::initializer_list<int64_t> shape) const {
    if (!saves()) return alloc(dtype, shape);
    tn_tensor* out = nullptr;
    check(ops_.saver->alloc(ops_.saver->self, slot, static_cast<int32_t>(shape.size()), shape.begin(), &dtype, &out));
    return out;
  }
  tn_tensor* keep(uint32_t slot, int64_t columns) const { return keep(slot, ops_.compute, {rows(), columns}); }
  tn_tensor& kept(uint32_t slot) const {
    const tn_saved* saved = nullptr;
    check(ops_.saver->get(ops_.saver->self, slot, &saved));
    return *saved->tensor;
  }

  void product(double alpha, const Matrix& a, const Matrix& b, double beta, const Matrix& c) const {
    const MatrixView va(a), vb(b);
    MatrixView vc(c);
    check(ops_.gemm(ops_.self, &va.tensor, &vb.tensor, alpha, beta, &vc.tensor));
  }
  void product(double alpha, const Matrices& a, const Matrices& b, double beta, const Matrices& c) const {
    if (c.n == 0) return;
    // Libraries write rows: Cᵀ = Bᵀ · Aᵀ.
    if (c.first.column_stride != 1 && c.first.row_stride == 1) return product(alpha, b.transposed(), a.transposed(), beta, c.transposed());
    const MatricesView va(a), vb(b);
    MatricesView vc(c);
    check(ops_.gemm(ops_.self, &va.tensor, &vb.tensor, alpha, beta, &vc.tensor));
  }
  // y = x · Wᵀ of a parameter; dx = beta · dx + dy · W; dW += dyᵀ · x where it trains.
  void project(uint32_t param, const tn_tensor& x, const tn_tensor& y) const { product(1, Matrix::of(x), weight(param).transposed(), 0, Matrix::of(y)); }
  void project_backward(uint32_t param, const tn_tensor& dy, const tn_tensor& x, double beta, tn_tensor* dx) const {
    if (tn_tensor* g = grad(param)) product(1, Matrix::of(dy).transposed(), Matrix::of(x), 1, Matrix::of(*g));
    if (dx) product(1, Matrix::of(dy), weight(param), beta, Matrix::of(*dx));
  }
  void copy(const float* from, float* to, int64_t n, double scale = 1) const {
    int64_t one = 1;
    const tn_tensor x{const_cast<float*>(from), {TN_CPU, 0}, 1, kF32, &n, &one, 0};
    tn_tensor y{to, {TN_CPU, 0}, 1, kF32, &n, &one, 0};
    axpby(scale, x, 0, y);
  }
  void axpby(double alpha, const tn_tensor& x, double beta, tn_tensor& y) const { check(ops_.axpby(ops_.self, alpha, &x, beta, &y)); }
  void linear(uint32_t role, const tn_tensor& x, tn_tensor& y) const { check(ops_.linear(ops_.self, role, &x, &y)); }
  void linear_backward(uint32_t role, const tn_tensor& dy, const tn_tensor& x, double beta, tn_tensor* dx) const {
    check(ops_.linear_backward(ops_.self, role, &dy, &x, beta, dx));
  }
  void core(uint32_t id, const tn_tensor& q, const tn_tensor& k, const tn_tensor& v, tn_tensor& o, tn_tensor* lse) const {
    check(ops_.core(ops_.self, id, &q, &k, &v, &o, lse));
  }
  void core_backward(uint32_t id, const tn_tensor& q, const tn_tensor& k, const tn_tensor& v, const tn_tensor& o, const tn_tensor& lse,
                     const tn_tensor& d_o, tn_tensor& dq, tn_tensor& dk, tn_tensor& dv) const {
    check(ops_.core_backward(ops_.self, id, &q, &k, &v, &o, &lse, &d_o, &dq, &dk, &dv));
  }
  void read_rows(uint32_t role, int64_t begin, int64_t end, tn_tensor& out) const { check(ops_.read_rows(ops_.self, role, begin, end, &out)); }

  // Documents as ranges of rows, in order.
  struct Document {
    int64_t begin, length;
  };
  std::vector<Document> documents() const {
    std::vector<Document> out;
    if (const tn_segments* s = ops_.segments) {
      for (uint32_t i = 0; i < s->n; ++i) out.push_back({s->q_begin[i], s->q_len[i]});
    } else {
      for (int64_t i = 0; i < ops_.sequences; ++i) out.push_back({i * ops_.length, ops_.length});
    }
    return out;
  }

 private:
  const tn_mixer_ops& ops_;
};

// A tensor of the same memory in three axes; lives where it is made.
struct HeadsView {
  int64_t shape[3], strides[3];
  tn_tensor tensor;
  HeadsView(const tn_tensor& of, int64_t rows, int64_t heads, int64_t width, int64_t row_stride, int64_t head_stride, int64_t offset = 0)
      : shape{rows, heads, width},
        strides{row_stride, head_stride, 1},
        tensor{of.data ? data<char>(of) + offset * (of.dtype.bits / 8) : nullptr, of.device, 3, of.dtype, shape, strides, 0} {}
  // Rows of dense heads.
  HeadsView(const tn_tensor& of, int64_t heads) : HeadsView(of, of.shape[0], heads, count(of) / of.shape[0] / heads, count(of) / of.shape[0], count(of) / of.shape[0] / heads) {}
  HeadsView(const HeadsView&) = delete;
};

// Declares under ids that count up.
class MixerDeclarer {
 public:
  explicit MixerDeclarer(const tn_mixer_sink& sink) : sink_(sink) {}

  void keep(uint32_t role) const { check(sink_.keep(sink_.self, role)); }
  // A matrix [out, in] in the model's storage type.
  uint32_t matrix(const char* key, int64_t out, int64_t in) const { return declare(key, 0, TN_ROLE_OTHER, {out, in}, 2, 1); }
  // Numbers kept in f32: kernels [n, k], or with k = 0 a vector.
  uint32_t numbers(const char* key, int64_t n, int64_t k, uint32_t role = TN_ROLE_OTHER, double decay_scale = 0) const {
    return declare(key, TN_MIXER_PARAM_F32, role, {n, k}, k ? 2 : 1, decay_scale);
  }
  uint32_t buffer(const char* key, int64_t n) const { return declare(key, TN_MIXER_PARAM_F32 | TN_MIXER_PARAM_BUFFER, TN_ROLE_OTHER, {n, 0}, 1, 0); }
  uint32_t core(std::string_view spec, const tn_attention_config& config, int64_t window) const {
    uint32_t id = 0;
    check(sink_.core(sink_.self, std::string(spec).c_str(), &config, window, &id));
    return id;
  }

 private:
  uint32_t declare(const char* key, uint32_t flags, uint32_t role, std::initializer_list<int64_t> shape, int32_t ndim, double decay_scale) const {
    tn_mixer_param p{sizeof(tn_mixer_param), next_, flags, role, ndim, 0, {}, 1, decay_scale, key};
    std::copy(shape.begin(), shape.end(), p.shape);
    check(sink_.param(sink_.self, &p));
    return next_++;
  }
  const tn_mixer_sink& sink_;
  mutable uint32_t next_ = 0;
};

template <class T>
struct MixerThunks {
  using A = AttentionThunks<T>;
  static int32_t bind(tn_attention* self, const tn_mixer_layer* layer, const tn_mixer_sink* sink) {
    return guard(A::of(self)->host, [&] { A::of(self)->kernel.bind(*layer, MixerDeclarer(*sink)); });
  }
  static int32_t start(tn_attention* self, const tn_mixer_ops* ops, const tn_rng* rng, uint32_t buffers_only) {
    return guard(A::of(self)->host, [&] { A::of(self)->kernel.start(MixerPass(*ops), *rng, buffers_only != 0); });
  }
  static int32_t forward(tn_attention* self, const tn_mixer_ops* ops, const tn_tensor* x, tn_tensor* y) {
    return guard(A::of(self)->host, [&] { A::of(self)->kernel.forward(MixerPass(*ops), *x, *y); });
  }
  static int32_t backward(tn_attention* self, const tn_mixer_ops* ops, const tn_tensor* x, const tn_tensor* dy, tn_tensor* dx) {
    return guard(A::of(self)->host, [&] { A::of(self)->kernel.backward(MixerPass(*ops), *x, *dy, dx); });
  }
};

template <class T>
struct NoKernel {
  using A = AttentionThunks<T>;
  static int32_t plan(tn_attention* self, const tn_device_api*, tn_device*, const tn_attention_shape*, tn_attention_plan*) { return refuse(self); }
  static int32_t run(tn_attention* self, const tn_attention_call*, const tn_attention_shape*, const tn_port_bind* const*, uint64_t) { return refuse(self); }
  static int32_t refuse(tn_attention* self) {
    return guard(A::of(self)->host, [] { fail(TN_E_UNSUPPORTED, "this mixer owns its projections and is no kernel on q, k and v; call it through org.tenon.mixer/1"); });
  }
};

template <class T>
constexpr tn_attention_api mixer_attention_api() {
  using A = AttentionThunks<T>;
  using N = NoKernel<T>;
  return {TN_SIZE_TO(tn_attention_api, state), TN_PLACEMENT_SUBLAYER, A::create, A::destroy, A::supports, N::plan, N::run, N::run, A::state};
}
template <class T>
constexpr tn_mixer_api mixer_api() {
  using M = MixerThunks<T>;
  return {sizeof(tn_mixer_api), 0, M::bind, M::start, M::forward, M::backward};
}

}  // namespace tenon::sdk
