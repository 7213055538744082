// Where a run computes: one device, one stream, accounted memory, and the operators as methods.
//
// An Engine may be *dry*: it allocates from a counting Memory and computes nothing. The planner runs the very same training step on a dry
// engine, so that its forecast is the run with the arithmetic left out. Code that touches tensor contents asks dry() first; everything
// that goes through these methods is guarded here.
#pragma once

#include <functional>
#include <initializer_list>
#include <map>
#include <string>
#include <vector>

#include "hosts/trainer/engine/tensor.h"
#include "tenon/device.h"
#include "tenon/ops.h"

namespace tenon::trainer {

// Throws Error with the plugin's own sentence when status is negative.
void check(int32_t status, const char* what);

// What work must at least take of the machine: memory traffic and arithmetic.
struct Cost {
  double bytes = 0, flops = 0;
  Cost() = default;
  Cost(double b, double f) : bytes(b), flops(f) {}
  explicit Cost(const tn_estimate& e) : bytes(e.bytes_moved), flops(e.flops) {}
  // Every tensor read or written once, with some operations for each element of the first.
  Cost(std::initializer_list<const Tensor*> moved, double flops_each);
};

// All calls of one name while profiling was on.
struct Profiled {
  double seconds = 0;  // without the operators that they called
  int64_t calls = 0;
  Cost cost;
};

class Engine {
 public:
  // The opened device outlives the Engine. compute: f32 or bf16, the type of activations.
  Engine(const tn_host* host, const tn_device_api* api, tn_device* device, tn_device_id id, tn_dtype compute, uint64_t limit_bytes, bool dry);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  bool dry() const { return dry_; }
  tn_dtype compute() const { return compute_; }
  tn_device_id id() const { return id_; }
  Memory& memory() { return memory_; }
  const tn_host* host() const { return host_; }
  const tn_device_api* api() const { return api_; }
  tn_device* device() const { return device_; }
  tn_stream* stream() const { return stream_; }
  // Operators and techniques by name since profiling began; for `bench step --profile`.
  const std::map<std::string, Profiled>& profile() const { return profile_; }
  void set_profiling(bool on) { profiling_ = on; }

  Tensor empty(Category category, tn_dtype dtype, std::initializer_list<int64_t> shape);
  Tensor empty(Category category, tn_dtype dtype, const int64_t* shape, int ndim);
  Tensor zeros(Category category, tn_dtype dtype, std::initializer_list<int64_t> shape);
  void zero(const Tensor& t);
  void copy(const Tensor& from, const Tensor& to);                      // same dtype and count, both on the device
  void upload(const void* host_memory, const Tensor& to);               // to.bytes() bytes
  void download(const Tensor& from, void* host_memory);                 // from.bytes() bytes; waits
  void synchronize();

  // c = alpha · a · b + beta · c; transposes are views.
  void gemm(const Tensor& a, const Tensor& b, const Tensor& c, double alpha = 1, double beta = 0, const Tensor* bias = nullptr);

  void embedding(const Tensor& table, const Tensor& ids, const Tensor& y);
  void embedding_backward(const Tensor& ids, const Tensor& dy, const Tensor& dtable);
  void rms_norm(const Tensor& x, const Tensor& weight, double eps, const Tensor& y, const Tensor* rstd);
  void rms_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rstd, double beta, const Tensor& dx,
                         const Tensor* dweight);
  void rope(const Tensor& x, const Tensor& positions, const Tensor& inv_freq, double scale, double sign);
  void swiglu(const Tensor& gate, const Tensor& up, const Tensor& out);
  void swiglu_backward(const Tensor& dout, const Tensor& gate, const Tensor& up, const Tensor& dgate, const Tensor& dup);
  void axpby(double alpha, const Tensor& x, double beta, const Tensor& y);
  void bias_add(const Tensor& bias, const Tensor& y);
  void bias_backward(const Tensor& dy, const Tensor& dbias);
  void cross_entropy(const Tensor& logits, const Tensor& labels, double grad_scale, const Tensor* losses);
  // {sum of squares, count of non-finite elements}; waits. {0, 0} when dry.
  std::array<double, 2> sum_squares(const Tensor& x);
  void fill_normal(const Tensor& x, double std, const tn_rng& rng);
  void fill_constant(const Tensor& x, float value);

  // Runs `call` with a tn_exec whose workspace has `bytes` bytes; not called when dry.
  void with_workspace(uint64_t bytes, const char* name, const std::function<int32_t(const tn_exec*)>& call, const Cost& cost = {});
  // The same with the workspace, traffic and operations of an estimate.
  void with_workspace(const tn_estimate& estimate, const char* name, const std::function<int32_t(const tn_exec*)>& call) {
    with_workspace(estimate.workspace_bytes, name, call, Cost(estimate));
  }
  tn_exec exec(void* workspace, uint64_t bytes) const;
  // Runs `call`, a technique that may call operators itself; not called when dry.
  void technique(const char* name, const Cost& cost, const std::function<int32_t()>& call);

 private:
  template <class F>
  void run(const char* name, const Cost& cost, F&& call);

  const tn_host* host_;
  const tn_device_api* api_;
  tn_device* device_;
  tn_device_id id_;
  tn_dtype compute_;
  bool dry_, profiling_ = false;
  tn_stream* stream_ = nullptr;
  const tn_ops* ops_ = nullptr;
  Memory memory_;
  std::map<std::string, Profiled> profile_;
  double nested_seconds_ = 0;  // of finished calls within the one that runs
};

}  // namespace tenon::trainer
