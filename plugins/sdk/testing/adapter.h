// One adapter as a host drives it: sites in, parameters allocated as declared, calls with exactly the workspace
// that estimate() asks for, and a saver that counts what survives to backward.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "sdk/testing/host.h"
#include "sdk/testing/statistics.h"
#include "tenon/adapter.h"

namespace tenon::sdk::testing {

struct SiteSpec {
  std::string path;
  int64_t m, n;
  uint32_t role = TN_ROLE_OTHER;
  uint32_t place = TN_PLACE_LINEAR, flags = 0;
};

// The frozen weight [m, n], and optionally a bias, in f32 with sums in double. Also the adapter below another one,
// through `forward`.
struct Base {
  int64_t m, n;
  std::vector<float> weight, bias;
  int64_t calls = 0;
  std::function<void(const tn_tensor&, tn_tensor&)> instead;  // of the forward product

  static float at(const tn_tensor& t, int64_t i, int64_t j) {
    return fake::read(t, i * t.strides[0] + j * t.strides[1]);
  }
  static void put(tn_tensor& t, int64_t i, int64_t j, double value) {
    with_float_type(t.dtype, "a result", [&]<class T>(T) {
      data<T>(t)[i * t.strides[0] + j * t.strides[1]] = from_float<T>(static_cast<float>(value));
    });
  }
  static int32_t forward(void* self, const tn_tensor* x, double alpha, double beta, tn_tensor* y) {
    const DeviceMemory::Reach reach;
    Base& b = *static_cast<Base*>(self);
    ++b.calls;
    if (b.instead) return b.instead(*x, *y), TN_OK;
    for (int64_t t = 0; t < x->shape[0]; ++t)
      for (int64_t i = 0; i < b.m; ++i) {
        double sum = b.bias.empty() ? 0 : b.bias[i];
        for (int64_t j = 0; j < b.n; ++j) sum += double{at(*x, t, j)} * b.weight[i * b.n + j];
        put(*y, t, i, alpha * sum + (beta != 0 ? beta * at(*y, t, i) : 0));
      }
    return TN_OK;
  }
  static int32_t backward(void* self, const tn_tensor* dy, double alpha, double beta, tn_tensor* dx) {
    const DeviceMemory::Reach reach;
    Base& b = *static_cast<Base*>(self);
    ++b.calls;
    if (!dx) return TN_OK;  // of a lookup
    for (int64_t t = 0; t < dy->shape[0]; ++t)
      for (int64_t j = 0; j < b.n; ++j) {
        double sum = 0;
        for (int64_t i = 0; i < b.m; ++i) sum += double{at(*dy, t, i)} * b.weight[i * b.n + j];
        put(*dx, t, j, alpha * sum + (beta != 0 ? beta * at(*dx, t, j) : 0));
      }
    return TN_OK;
  }
  static int32_t read_rows(void* self, int64_t begin, int64_t end, tn_tensor* out) {
    const DeviceMemory::Reach reach;
    Base& b = *static_cast<Base*>(self);
    for (int64_t i = begin; i < end; ++i)
      for (int64_t j = 0; j < b.n; ++j) put(*out, i - begin, j, b.weight[i * b.n + j]);
    return TN_OK;
  }
  static int32_t lease(void* self, tn_tensor** weight) {
    Base& b = *static_cast<Base*>(self);
    b.leased = true;
    b.view = {b.weight.data(), {TN_CPU, 0}, 2, kF32, b.shape, b.strides, 0};
    b.shape[0] = b.m, b.shape[1] = b.n, b.strides[0] = b.n, b.strides[1] = 1;
    return *weight = &b.view, TN_OK;
  }
  static int32_t release(void* self) { return static_cast<Base*>(self)->leased = false, TN_OK; }
  tn_base_linear table() {
    tn_base_linear t{};
    t.struct_size = sizeof t, t.self = this, t.m = m, t.n = n, t.forward = forward, t.backward = backward, t.read_rows = read_rows;
    if (leases) t.lease = lease, t.release = release;
    if (!bias.empty()) {
      bias_shape[0] = m, bias_strides[0] = 1;
      bias_view = {bias.data(), {TN_CPU, 0}, 1, kF32, bias_shape, bias_strides, 0};
      t.bias = &bias_view;
    }
    return t;
  }
  bool leases = false, leased = false;  // whether the weight may be leased; whether it is
  tn_tensor view{}, bias_view{};
  int64_t shape[2]{}, strides[2]{}, bias_shape[1]{}, bias_strides[1]{};
};

struct SavedSlots {
  std::map<uint32_t, Tensor> own;
  std::map<uint32_t, const tn_tensor*> inputs;
  const tn_tensor* input = nullptr;
  std::deque<tn_saved> loans;

  static int32_t keep_input(void* self, uint32_t slot) {
    SavedSlots& s = *static_cast<SavedSlots*>(self);
    return s.inputs[slot] = s.input, TN_OK;
  }
  static int32_t alloc(void* self, uint32_t slot, int32_t ndim, const int64_t* shape, const tn_dtype* dtype,
                       tn_tensor** out) {
    auto& own = static_cast<SavedSlots*>(self)->own;
    own.erase(slot);
    return *out = own.emplace(slot, Tensor(*dtype, std::vector<int64_t>(shape, shape + ndim))).first->second.get(),
           TN_OK;
  }
  static int32_t get(void* self, uint32_t slot, const tn_saved** out) {
    SavedSlots& s = *static_cast<SavedSlots*>(self);
    tn_tensor* tensor = s.own.contains(slot) ? s.own.at(slot).get() : const_cast<tn_tensor*>(s.inputs.at(slot));
    return *out = &s.loans.emplace_back(tn_saved{sizeof(tn_saved), 0, tensor, nullptr, nullptr}), TN_OK;
  }
  tn_saver table() { return {sizeof(tn_saver), 0, this, keep_input, alloc, get}; }
  uint64_t bytes() const {
    uint64_t n = 0;
    for (const auto& [slot, t] : own) n += t.bytes();
    return n;
  }
};

struct CallOptions {
  uint32_t flags = TN_CALL_TRAIN | TN_CALL_SAVE | TN_CALL_NEED_DX;
  int64_t row_begin = 0;
  double scale = 1, beta = 0;
  uint32_t stream = 1;
  int64_t step = 1;
};

class TestAdapter {
 public:
  using Options = std::map<std::string, std::string>;
  struct Param {
    tn_adapter_param info;
    std::string key;
    Tensor value, grad;
  };

  // Throws the plugin's refusal of its options or of the configuration.
  explicit TestAdapter(const std::string& object, const Options& hypers = {}, const char* config = nullptr)
      : plugin(load_plugin(host, object)), api(*static_cast<const tn_adapter_api*>(plugin.api)) {
    const HyperValues values(plugin, hypers);
    must(api.create(host.get(), values.data(), values.size(), config, &self));
  }
  TestAdapter(const TestAdapter&) = delete;
  ~TestAdapter() {
    if (self) api.destroy(self);
  }
  void must(int32_t status) {
    if (status != TN_OK) fail(status, host.error);
  }

  int32_t bind(const std::vector<SiteSpec>& specs, bool allocate = true) {
    allocate_ = allocate;
    std::vector<tn_site> sites;
    std::vector<const tn_site*> pointers;
    for (const SiteSpec& s : specs)
      sites.push_back({sizeof(tn_site), static_cast<uint32_t>(sites.size()), s.place, s.role, s.flags, 0, s.m, s.n,
                       s.path.c_str()});
    for (const tn_site& s : sites) pointers.push_back(&s);
    const tn_adapter_sink sink{sizeof(tn_adapter_sink), 0, this, on_site, on_param, on_own, on_train};
    const int32_t status = api.bind(self, pointers.data(), pointers.size(), &sink);
    for (size_t i = 0; i < params.size(); ++i) EXPECT_EQ(params[i].info.id, i);
    return status;
  }
  uint64_t workspace(uint32_t site, int64_t rows, tn_dtype dtype, bool backward) {
    return estimate(site, rows, dtype, backward).workspace_bytes;
  }
  tn_estimate estimate(uint32_t site, int64_t rows, tn_dtype dtype, bool backward) {
    tn_estimate e{};
    e.struct_size = sizeof e;
    must(api.estimate(self, cpu_device_api(), cpu_device(), site, rows, &dtype, backward, &e));
    return e;
  }
  void init(uint64_t seed = 5, Base* base = nullptr) {
    for (Param& p : params) {
      const tn_rng rng{seed, p.info.id, 9};
      Exec exec(base ? std::max<uint64_t>(256 << 10, base->n * 16) : 0);
      const tn_base_linear table = base ? base->table() : tn_base_linear{};
      must(api.init_param(self, exec.get(), p.info.id, base && p.info.site >= 0 ? &table : nullptr, &rng, p.value.get()));
      EXPECT_TRUE(p.value.intact());
    }
  }
  void forward(uint32_t site, Base& base, const tn_tensor& x, tn_tensor* y, SavedSlots& saved,
               const CallOptions& o = {}) {
    saved.input = &x;
    const tn_dtype compute = same(x.dtype, kI32) ? y ? y->dtype : kF32 : x.dtype;  // of a lookup x are ids
    with_call(site, x.shape[0], compute, false, saved, o, [&](const tn_adapter_call* call) {
      const tn_base_linear table = base.table();
      return api.forward(self, site, call, &table, &x, y);
    });
  }
  void backward(uint32_t site, Base& base, const tn_tensor& dy, tn_tensor* dx, SavedSlots& saved,
                const CallOptions& o = {}) {
    with_call(site, dy.shape[0], dy.dtype, true, saved, o, [&](const tn_adapter_call* call) {
      const tn_base_linear table = base.table();
      return api.backward(self, site, call, &table, &dy, o.beta, dx);
    });
  }
  // Rows [begin, end) of the delta added to w.
  int32_t merge(uint32_t site, int64_t begin, int64_t end, tn_tensor& w) {
    Exec exec(workspace(site, end - begin, kF32, false));
    std::deque<tn_param_view> views;
    const auto pointers = views_of(site, views, false);
    const int32_t status = api.merge_rows(self, exec.get(), site, pointers.data(), pointers.size(), begin, end, &w);
    EXPECT_TRUE(exec.intact());
    return status;
  }
  std::string config() {
    std::string text;
    const tn_sink sink{sizeof(tn_sink), 0, &text, [](void* to, const void* bytes, uint64_t n) -> int32_t {
                         return static_cast<std::string*>(to)->append(static_cast<const char*>(bytes), n), TN_OK;
                       }};
    must(api.write_config(self, &sink));
    return text;
  }
  void zero_gradients() {
    for (Param& p : params) p.grad.assign(std::vector<float>(static_cast<size_t>(p.grad.size())));
  }
  int64_t trainables() const {
    int64_t n = 0;
    for (const Param& p : params) n += p.info.shape[0] * (p.info.ndim == 2 ? p.info.shape[1] : 1);
    return n;
  }
  std::vector<std::string> keys() const {
    std::vector<std::string> out;
    for (const Param& p : params) out.push_back(p.key);
    return out;
  }

  FakeHost host;
  const tn_plugin& plugin;
  const tn_adapter_api& api;
  tn_adapter* self = nullptr;
  std::map<uint32_t, uint32_t> retention;  // of the sites taken
  std::map<uint32_t, bool> owned;
  std::vector<uint32_t> trained_roles;
  std::deque<Param> params;
  bool train_params = true;

 private:
  static int32_t on_site(void* to, uint32_t site, uint32_t retention) {
    return static_cast<TestAdapter*>(to)->retention[site] = retention, TN_OK;
  }
  static int32_t on_param(void* to, const tn_adapter_param* p) {
    TestAdapter& l = *static_cast<TestAdapter*>(to);
    const std::vector<int64_t> shape(p->shape, p->shape + (l.allocate_ ? p->ndim : 0));
    const tn_dtype dtype = p->flags & TN_ADAPTER_PARAM_INT32 ? kI32 : p->flags & TN_ADAPTER_PARAM_INT8 ? kI8 : kF32;
    l.params.push_back({*p, p->file_key, Tensor(dtype, shape), Tensor(kF32, shape)});
    return TN_OK;
  }
  static int32_t on_own(void* to, uint32_t site, uint32_t from_base) {
    return static_cast<TestAdapter*>(to)->owned[site] = from_base != 0, TN_OK;
  }
  static int32_t on_train(void* to, uint32_t role) { return static_cast<TestAdapter*>(to)->trained_roles.push_back(role), TN_OK; }
  std::vector<const tn_param_view*> views_of(uint32_t site, std::deque<tn_param_view>& views, bool gradients) {
    std::vector<const tn_param_view*> out;
    for (Param& p : params)
      if (p.info.site < 0 || p.info.site == static_cast<int32_t>(site))
        out.push_back(&views.emplace_back(
            tn_param_view{sizeof(tn_param_view), p.info.id, p.value.get(),
                          gradients && train_params && (p.info.flags & TN_ADAPTER_PARAM_TRAINABLE) ? p.grad.get() : nullptr}));
    return out;
  }
  template <class Body>
  void with_call(uint32_t site, int64_t rows, tn_dtype dtype, bool backward, SavedSlots& saved, const CallOptions& o,
                 Body&& body) {
    Exec exec(workspace(site, rows, dtype, backward));
    std::deque<tn_param_view> views;
    const auto pointers = views_of(site, views, backward);
    const tn_saver saver = saved.table();
    const tn_adapter_call call{sizeof(tn_adapter_call),   o.flags, exec.get(), &saver,      pointers.data(),
                               pointers.size(),           o.step,  0,          o.row_begin, o.scale,
                               tn_rng{17, site, o.stream}};
    const int32_t status = body(&call);
    EXPECT_TRUE(exec.intact());
    must(status);
    for (const Param& p : params) EXPECT_TRUE(p.grad.intact() && p.value.intact());
  }
  bool allocate_ = true;
};

}  // namespace tenon::sdk::testing
