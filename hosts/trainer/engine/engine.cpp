#include "hosts/trainer/engine/engine.h"

#include <bit>
#include <chrono>
#include <utility>

#include "core/error.h"
#include "core/plugins/host.h"

namespace tenon::trainer {

void check(int32_t status, const char* what) { tenon::check(status, what); }

Cost::Cost(std::initializer_list<const Tensor*> moved, double flops_each) {
  for (const Tensor* t : moved) bytes += static_cast<double>(t->bytes());
  flops = flops_each * static_cast<double>((*moved.begin())->count());
}

Engine::Engine(const tn_host* host, const tn_device_api* api, tn_device* device, tn_device_id id, tn_dtype compute, uint64_t limit_bytes,
               bool dry)
    : host_(host),
      api_(api),
      device_(device),
      id_(id),
      compute_(compute),
      dry_(dry),
      memory_(dry ? Memory(limit_bytes) : Memory(api, device, limit_bytes)) {
  check(api_->stream_create(device_, &stream_), "creating a stream");
  ops_ = static_cast<const tn_ops*>(api_->get_extension(TN_EXT_OPS));
  if (!ops_) throw Error(TN_E_UNSUPPORTED, "the device plugin does not offer org.tenon.ops/1, which the trainer needs; install a newer one");
}

Engine::~Engine() {
  (void)api_->stream_wait(device_, stream_);  // what is queued uses memory that goes next
  api_->stream_destroy(device_, stream_);
}

template <class F>
void Engine::run(const char* name, const Cost& cost, F&& call) {
  if (dry_) return;
  if (!profiling_) return check(call(), name);
  const auto begin = std::chrono::steady_clock::now();
  const double outer = std::exchange(nested_seconds_, 0.0);
  check(call(), name);
  check(api_->stream_wait(device_, stream_), name);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  Profiled& entry = profile_[name];
  entry.seconds += seconds - nested_seconds_, ++entry.calls;
  entry.cost.bytes += cost.bytes, entry.cost.flops += cost.flops;
  nested_seconds_ = outer + seconds;
}

Tensor Engine::empty(Category category, tn_dtype dtype, const int64_t* shape, int ndim) {
  if (ndim < 0 || ndim > 4) throw Error(TN_E_ARGUMENT, "a tensor of " + std::to_string(ndim) + " axes was asked for; one has at most 4");
  uint64_t bytes = static_cast<uint64_t>(element_bytes(dtype));
  for (int i = 0; i < ndim; ++i) {
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(shape[i]), &bytes) || bytes >> 62)
      throw Error(TN_E_MEMORY, "a tensor of more than 2^62 bytes was asked for; reduce --seq-len, --batch-size or the model");
  }
  auto block = std::make_shared<Block>(memory_.allocate(category, bytes));
  void* data = block->data();
  return {std::move(block), data, id_, dtype, shape, ndim};
}

Tensor Engine::empty(Category category, tn_dtype dtype, std::initializer_list<int64_t> shape) {
  return empty(category, dtype, shape.begin(), static_cast<int>(shape.size()));
}

Tensor Engine::zeros(Category category, tn_dtype dtype, std::initializer_list<int64_t> shape) {
  Tensor t = empty(category, dtype, shape);
  zero(t);
  return t;
}

void Engine::zero(const Tensor& t) {
  if (t.count() == 0) return;
  run("fill", {{&t}, 0}, [&] { return api_->fill(device_, stream_, t.data(), 0, t.bytes()); });
}

void Engine::copy(const Tensor& from, const Tensor& to) {
  run("copy", {{&from, &to}, 0}, [&] { return api_->copy(device_, stream_, to.data(), from.data(), to.bytes(), TN_COPY_WITHIN); });
}

void Engine::upload(const void* host_memory, const Tensor& to) {
  if (to.count() == 0) return;
  run("upload", {{&to, &to}, 0}, [&] { return api_->copy(device_, stream_, to.data(), host_memory, to.bytes(), TN_COPY_TO_DEVICE); });
}

void Engine::download(const Tensor& from, void* host_memory) {
  if (from.count() == 0) return;
  run("download", {{&from, &from}, 0}, [&] { return api_->copy(device_, stream_, host_memory, from.data(), from.bytes(), TN_COPY_TO_HOST); });
  synchronize();
}

void Engine::synchronize() {
  if (!dry_) check(api_->stream_wait(device_, stream_), "waiting for the device");
}

void Engine::gemm(const Tensor& a, const Tensor& b, const Tensor& c, double alpha, double beta, const Tensor* bias) {
  const Tensor::Ref ra = a.ref(), rb = b.ref(), rc = c.ref(), rbias = bias ? bias->ref() : Tensor::Ref{};
  const tn_gemm g{sizeof(tn_gemm), compute_ == kF32 ? static_cast<uint32_t>(TN_GEMM_EXACT) : 0u, ra, rb, rc, bias ? &rbias.t : nullptr,
                  alpha, beta, nullptr};
  uint64_t bytes = 0;
  check(api_->gemm_workspace(device_, &g, &bytes), "planning a matrix product");
  const Block workspace = memory_.allocate(Category::kWorkspace, bytes);
  const double inner = static_cast<double>(a.dim(1)), read = beta == 0 ? 0 : static_cast<double>(c.bytes());
  Cost cost({&c, &a, &b}, 2 * inner);
  cost.bytes += read;
  run("gemm", cost, [&] { return api_->gemm(device_, stream_, &g, workspace.data(), bytes); });
}

void Engine::embedding(const Tensor& table, const Tensor& ids, const Tensor& y) {
  run("embedding", {{&y, &y}, 0}, [&] { return ops_->embedding(device_, stream_, table.ref(), ids.ref(), y.ref()); });
}
void Engine::embedding_backward(const Tensor& ids, const Tensor& dy, const Tensor& dtable) {
  run("embedding_backward", {{&dy, &dy, &dy}, 1}, [&] { return ops_->embedding_backward(device_, stream_, ids.ref(), dy.ref(), dtable.ref()); });
}
void Engine::rms_norm(const Tensor& x, const Tensor& weight, double eps, const Tensor& y, const Tensor* rstd) {
  const Tensor::Ref r = rstd ? rstd->ref() : Tensor::Ref{};
  run("rms_norm", {{&x, &y}, 4}, [&] { return ops_->rms_norm(device_, stream_, x.ref(), weight.ref(), eps, y.ref(), rstd ? &r.t : nullptr); });
}
void Engine::rms_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rstd, double beta, const Tensor& dx,
                               const Tensor* dweight) {
  const Tensor::Ref d = dweight ? dweight->ref() : Tensor::Ref{};
  run("rms_norm_backward", beta == 0 ? Cost({&x, &dy, &dx}, 8) : Cost({&x, &dy, &dx, &dx}, 8), [&] {
    return ops_->rms_norm_backward(device_, stream_, dy.ref(), x.ref(), weight.ref(), rstd.ref(), beta, dx.ref(), dweight ? &d.t : nullptr);
  });
}
void Engine::rope(const Tensor& x, const Tensor& positions, const Tensor& inv_freq, double scale, double sign) {
  run("rope", {{&x, &x}, 3}, [&] { return ops_->rope(device_, stream_, x.ref(), positions.ref(), inv_freq.ref(), scale, sign); });
}
void Engine::swiglu(const Tensor& gate, const Tensor& up, const Tensor& out) {
  run("swiglu", {{&gate, &up, &out}, 6}, [&] { return ops_->swiglu(device_, stream_, gate.ref(), up.ref(), out.ref()); });
}
void Engine::swiglu_backward(const Tensor& dout, const Tensor& gate, const Tensor& up, const Tensor& dgate, const Tensor& dup) {
  run("swiglu_backward", {{&gate, &up, &dout, &dgate, &dup}, 12},
      [&] { return ops_->swiglu_backward(device_, stream_, dout.ref(), gate.ref(), up.ref(), dgate.ref(), dup.ref()); });
}
void Engine::axpby(double alpha, const Tensor& x, double beta, const Tensor& y) {
  run("axpby", beta == 0 ? Cost({&x, &y}, 1) : Cost({&x, &y, &y}, 3), [&] { return ops_->axpby(device_, stream_, alpha, x.ref(), beta, y.ref()); });
}
void Engine::bias_add(const Tensor& bias, const Tensor& y) {
  run("bias_add", {{&y, &y}, 1}, [&] { return ops_->bias_add(device_, stream_, bias.ref(), y.ref()); });
}
void Engine::bias_backward(const Tensor& dy, const Tensor& dbias) {
  run("bias_backward", {{&dy}, 1}, [&] { return ops_->bias_backward(device_, stream_, dy.ref(), dbias.ref()); });
}
void Engine::cross_entropy(const Tensor& logits, const Tensor& labels, double grad_scale, const Tensor* losses) {
  const Tensor::Ref l = losses ? losses->ref() : Tensor::Ref{};
  run("cross_entropy", {{&logits, &logits}, 6},
      [&] { return ops_->cross_entropy(device_, stream_, logits.ref(), labels.ref(), grad_scale, losses ? &l.t : nullptr); });
}

std::array<double, 2> Engine::sum_squares(const Tensor& x) {
  const Tensor out = zeros(Category::kWorkspace, kF64, {2});
  run("sum_squares", {{&x}, 2}, [&] { return ops_->sum_squares(device_, stream_, x.ref(), out.ref()); });
  std::array<double, 2> result{};
  download(out, result.data());
  return result;
}

void Engine::fill_normal(const Tensor& x, double std, const tn_rng& rng) {
  run("fill_random", {{&x}, 0}, [&] { return ops_->fill_random(device_, stream_, TN_FILL_NORMAL, 0, std, &rng, x.ref()); });
}

void Engine::fill_constant(const Tensor& x, float value) {
  if (dry_) return;
  if (x.dtype() == kF32) {
    const std::vector<float> v(x.count(), value);
    upload(v.data(), x);
  } else {
    const std::vector<uint16_t> v(x.count(), static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16));
    upload(v.data(), x);
  }
  synchronize();
}

tn_exec Engine::exec(void* workspace, uint64_t bytes) const {
  return {sizeof(tn_exec), TN_EXEC_DETERMINISTIC, api_, device_, stream_, workspace, bytes};
}

void Engine::with_workspace(uint64_t bytes, const char* name, const std::function<int32_t(const tn_exec*)>& call, const Cost& cost) {
  const Block workspace = memory_.allocate(Category::kWorkspace, bytes);
  const tn_exec e = exec(workspace.data(), bytes);
  run(name, cost, [&] { return call(&e); });
}

void Engine::technique(const char* name, const Cost& cost, const std::function<int32_t()>& call) { run(name, cost, call); }

}  // namespace tenon::trainer
