// A class becomes an adapter that runs the stack of blocks itself (org.tenon.region/1), and what such a class writes its pass with.
//
//   struct Method {
//     Method(const tn_host*, const Hypers&, const char* config_json);
//     void supports(const tn_query&);
//     void bind_region(const tn_region_model&, const tn_region_sink&);
//     void init_param(const tn_exec*, uint32_t param, const tn_base_linear*, const tn_rng&, tn_tensor& value);
//     void run_forward(const Region&, const tn_tensor& x, tn_tensor& y);
//     void run_backward(const Region&, const tn_tensor& dy, tn_tensor* dx);
//     void write_config(const tn_sink&);
//   };
#pragma once

#include <array>
#include <vector>

#include "sdk/adapter.h"
#include "sdk/linalg/matrix.h"
#include "tenon/region.h"

namespace tenon::sdk {

// The host's operators. Tensors are the host's handles; a Matrix of one may be transposed for a product.
class Region {
 public:
  explicit Region(const tn_region_ops& ops) : ops_(ops) {}

  bool plans() const { return (ops_.flags & TN_REGION_PLAN) != 0; }  // contents must not be touched
  bool saves() const { return (ops_.flags & TN_REGION_SAVE) != 0; }
  const tn_exec* exec() const { return ops_.exec; }
  // One use of random numbers in training, below 2^16: the same in a forward and its backward.
  tn_rng rng(uint32_t use) const {
    if (!TN_HAS(&ops_, tn_region_ops, rng)) fail(TN_E_UNSUPPORTED, "this host is older than the random numbers of regions; train without dropout");
    return {ops_.rng.seed, ops_.rng.uid + use, ops_.rng.stream};
  }
  int64_t rows() const { return ops_.rows; }
  int64_t hidden() const { return ops_.hidden; }
  const tn_tensor& value(uint32_t param) const { return *ops_.params[param]->value; }
  tn_tensor* grad(uint32_t param) const { return ops_.params[param]->grad; }

  tn_tensor* alloc(int64_t columns) const { return alloc(ops_.compute, {rows(), columns}); }
  tn_tensor* alloc(tn_dtype dtype, std::initializer_list<int64_t> shape) const {
    tn_tensor* out = nullptr;
    check(ops_.alloc(ops_.self, static_cast<int32_t>(shape.size()), shape.begin(), &dtype, &out));
    return out;
  }
  void free(tn_tensor*& t) const {
    if (t) ops_.free(ops_.self, t);
    t = nullptr;
  }
  void product(double alpha, const Matrix& a, const Matrix& b, double beta, const Matrix& c) const {
    const MatrixView va(a), vb(b);
    MatrixView vc(c);
    check(ops_.gemm(ops_.self, &va.tensor, &vb.tensor, alpha, beta, &vc.tensor));
  }
  void axpby(double alpha, const tn_tensor& x, double beta, tn_tensor& y) const { check(ops_.axpby(ops_.self, alpha, &x, beta, &y)); }
  // gain null: the model's final norm. Answers rstd, or null where nothing follows.
  tn_tensor* norm(const tn_tensor& x, const tn_tensor* gain, tn_tensor& y) const {
    tn_tensor* rstd = saves() ? alloc(kF32, {rows()}) : nullptr;
    check(ops_.norm(ops_.self, &x, gain, &y, rstd));
    return rstd;
  }
  void norm_backward(const tn_tensor& dy, const tn_tensor& x, const tn_tensor* gain, const tn_tensor& rstd, double beta, tn_tensor& dx,
                     tn_tensor* dgain) const {
    check(ops_.norm_backward(ops_.self, &dy, &x, gain, &rstd, beta, &dx, dgain));
  }
  tn_tensor* block(uint32_t id, uint32_t part, const tn_tensor& x, uint64_t* token) const {
    tn_tensor* y = nullptr;
    check(ops_.block_forward(ops_.self, id, part, &x, &y, token));
    return y;
  }
  void block_backward(uint64_t token, tn_tensor& d) const { check(ops_.block_backward(ops_.self, token, &d)); }

 private:
  const tn_region_ops& ops_;
};

// Declares parameters of a region under ids that count up, those of its blocks included.
class RegionDeclarer {
 public:
  explicit RegionDeclarer(const tn_region_sink& sink) : sink_(sink) {}

  uint32_t param(std::array<int64_t, 2> shape, const std::string& key, double decay_scale = 1, bool trains = true, double lr_scale = 1) {
    const uint32_t flags = TN_ADAPTER_PARAM_SAVED | (trains ? uint32_t{TN_ADAPTER_PARAM_TRAINABLE} : 0u);
    const tn_adapter_param p{sizeof(tn_adapter_param), next_, -1, flags, shape[1] ? 2 : 1, 0, {shape[0], shape[1], 0, 0}, lr_scale, decay_scale, key.c_str()};
    check(sink_.param(sink_.self, &p));
    return next_++;
  }
  struct Added {
    uint32_t id, first_param;
  };
  Added block(const tn_side_block& block) {
    Added a{0, next_};
    check(sink_.block(sink_.self, &block, &a.id));
    next_ += kBlockParams;
    return a;
  }
  static constexpr uint32_t kBlockParams = 9;  // norms, q, k, v, o, gate, up, down

 private:
  const tn_region_sink& sink_;
  uint32_t next_ = 0;
};

template <class T>
struct RegionThunks {
  using A = AdapterThunks<T>;
  static int32_t nothing(tn_adapter*, const tn_site* const*, uint64_t, const tn_adapter_sink*) { return TN_OK; }
  static int32_t no_estimate(tn_adapter*, const tn_device_api*, tn_device*, uint32_t, int64_t, const tn_dtype*, uint32_t, tn_estimate*) { return TN_E_UNSUPPORTED; }
  static int32_t no_forward(tn_adapter* self, uint32_t, const tn_adapter_call*, const tn_base_linear*, const tn_tensor*, tn_tensor*) {
    return guard(A::of(self)->host, [&] { fail(TN_E_STATE, "this adapter runs the stack of blocks and takes no site"); });
  }
  static int32_t no_backward(tn_adapter* self, uint32_t, const tn_adapter_call*, const tn_base_linear*, const tn_tensor*, double, tn_tensor*) {
    return no_forward(self, 0, nullptr, nullptr, nullptr, nullptr);
  }
  static int32_t bind(tn_adapter* self, const tn_region_model* model, const tn_region_sink* sink) {
    return guard(A::of(self)->host, [&] { A::of(self)->method.bind_region(*model, *sink); });
  }
  static int32_t forward(tn_adapter* self, const tn_region_ops* ops, const tn_tensor* x, tn_tensor* y) {
    return guard(A::of(self)->host, [&] { A::of(self)->method.run_forward(Region(*ops), *x, *y); });
  }
  static int32_t backward(tn_adapter* self, const tn_region_ops* ops, const tn_tensor* dy, tn_tensor* dx) {
    return guard(A::of(self)->host, [&] { A::of(self)->method.run_backward(Region(*ops), *dy, dx); });
  }
};

template <class T>
constexpr tn_adapter_api region_adapter_api() {
  using A = AdapterThunks<T>;
  using R = RegionThunks<T>;
  tn_adapter_api t{};
  t.struct_size = TN_SIZE_TO(tn_adapter_api, write_config);
  t.create = A::create, t.destroy = A::destroy, t.supports = A::supports, t.init_param = A::init_param, t.write_config = A::write_config;
  t.bind = R::nothing, t.estimate = R::no_estimate, t.forward = R::no_forward, t.backward = R::no_backward;
  return t;
}
template <class T>
constexpr tn_region_api region_api() {
  using R = RegionThunks<T>;
  return {sizeof(tn_region_api), 0, R::bind, R::forward, R::backward};
}

}  // namespace tenon::sdk
