// The transformer's operators in GB/s of the bytes that they must move, as a share of the machine's measured bandwidth.
//
//   benchmark_ops [object.so] [tokens]
#include <cstdio>
#include <cstring>

#include "device.h"

namespace {

using namespace tenon;
using benchmarks::Device;
using sdk::testing::Tensor;

Tensor filled(tn_dtype dtype, std::vector<int64_t> shape) {
  Tensor t(dtype, std::move(shape));
  sdk::with_float_type(dtype, "", [&]<class T>(T) {
    for (int64_t i = 0; i < t.size(); ++i) t.as<T>()[i] = sdk::from_float<T>(static_cast<float>(i % 89) * 0.05f - 2.0f);
  });
  return t;
}

struct Report {
  Device& device;
  const char* type;
  void operator()(const char* name, double bytes, const std::function<int32_t()>& run) const {
    const double seconds = benchmarks::median_seconds({[&] { require(device, run()); }}, 0.3)[0];
    std::printf("%-22s %-5s %9.1f MB %9.1f us %8.1f GB/s %6.2f\n", name, type, bytes * 1e-6, seconds * 1e6,
                bytes / seconds * 1e-9, bytes / seconds / device.info.bytes_per_second);
    std::fflush(stdout);
  }
};

void run(Device& device, tn_dtype d, int64_t tokens) {
  const int64_t n = 576, heads = 9, width = 1536, vocabulary = 49152;
  const double e = d.bits / 8, t = static_cast<double>(tokens);
  const Report report{device, d.bits == 16 ? "bf16" : "f32"};
  const tn_ops& ops = *device.ops;
  tn_device* const h = device.handle;
  Tensor x = filled(d, {tokens, n}), y = filled(d, {tokens, n}), dx = filled(d, {tokens, n}), w = filled(d, {n}),
         rstd(sdk::kF32, {tokens}), dw(sdk::kF32, {n});
  report("rms_norm", 2 * t * n * e,
         [&] { return ops.rms_norm(h, nullptr, x.get(), w.get(), 1e-5, y.get(), rstd.get()); });
  report("rms_norm_backward", 3 * t * n * e, [&] {
    return ops.rms_norm_backward(h, nullptr, y.get(), x.get(), w.get(), rstd.get(), 0, dx.get(), nullptr);
  });
  report("  with dweight", 3 * t * n * e, [&] {
    return ops.rms_norm_backward(h, nullptr, y.get(), x.get(), w.get(), rstd.get(), 0, dx.get(), dw.get());
  });

  Tensor q = filled(d, {tokens, heads, n / heads}), positions(sdk::kI32, {tokens}), inv(sdk::kF32, {n / heads / 2});
  for (int64_t i = 0; i < tokens; ++i) positions.as<int32_t>()[i] = static_cast<int32_t>(i);
  for (int64_t i = 0; i < inv.size(); ++i) inv.as<float>()[i] = 1.0f / static_cast<float>(1 + i * i);
  report("rope", 2 * t * n * e, [&] { return ops.rope(h, nullptr, q.get(), positions.get(), inv.get(), 1, 1); });

  Tensor gate = filled(d, {tokens, width}), up = filled(d, {tokens, width}), out = filled(d, {tokens, width}),
         dgate = filled(d, {tokens, width}), dup = filled(d, {tokens, width});
  report("swiglu", 3 * t * width * e, [&] { return ops.swiglu(h, nullptr, gate.get(), up.get(), out.get()); });
  report("swiglu_backward", 5 * t * width * e,
         [&] { return ops.swiglu_backward(h, nullptr, out.get(), gate.get(), up.get(), dgate.get(), dup.get()); });
  report("axpby", 3 * t * width * e, [&] { return ops.axpby(h, nullptr, 1.0, gate.get(), 1.0, out.get()); });
  report("bias_add", 2 * t * n * e, [&] { return ops.bias_add(h, nullptr, w.get(), y.get()); });
  report("bias_backward", t * n * e, [&] { return ops.bias_backward(h, nullptr, y.get(), dw.get()); });

  Tensor table = filled(d, {vocabulary, n}), dtable(sdk::kF32, {vocabulary, n}), ids(sdk::kI32, {tokens});
  for (int64_t i = 0; i < tokens; ++i) ids.as<int32_t>()[i] = static_cast<int32_t>(i * 7919 % vocabulary);
  report("embedding", 2 * t * n * e, [&] { return ops.embedding(h, nullptr, table.get(), ids.get(), y.get()); });
  report("embedding_backward", t * n * (e + 8),
         [&] { return ops.embedding_backward(h, nullptr, ids.get(), y.get(), dtable.get()); });

  Tensor logits = filled(d, {tokens, vocabulary}), losses(sdk::kF64, {tokens});
  report("cross_entropy", t * vocabulary * e,
         [&] { return ops.cross_entropy(h, nullptr, logits.get(), ids.get(), 0, losses.get()); });
  report("  with gradient", 2 * t * vocabulary * e,
         [&] { return ops.cross_entropy(h, nullptr, logits.get(), ids.get(), 1e-3, losses.get()); });
  Tensor sums(sdk::kF64, {2});
  report("sum_squares", static_cast<double>(table.bytes()),
         [&] { return ops.sum_squares(h, nullptr, table.get(), sums.get()); });
  const tn_rng rng{1, 2, 3};
  report("fill_random normal", static_cast<double>(table.bytes()),
         [&] { return ops.fill_random(h, nullptr, TN_FILL_NORMAL, 0, 1, &rng, table.get()); });
  if (d.bits == 32) {
    Tensor rounded(sdk::kBF16, {vocabulary, n});
    report("round_stochastic", static_cast<double>(table.bytes() + rounded.bytes()),
           [&] { return ops.round_stochastic(h, nullptr, table.get(), &rng, rounded.get()); });
    report("axpby f32 -> bf16", static_cast<double>(table.bytes() + rounded.bytes()),
           [&] { return ops.axpby(h, nullptr, 1, table.get(), 0, rounded.get()); });
  }
  Tensor copy(d, {vocabulary, n});
  report("copy", 2.0 * static_cast<double>(table.bytes()), [&] {
    return device.api->copy(h, nullptr, copy.get()->data, table.get()->data, table.bytes(), TN_COPY_WITHIN);
  });
}

}  // namespace

int main(int argc, char** argv) {
  Device device(argc > 1 ? argv[1] : TENON_DEVICE_OBJECT);
  const int64_t tokens = argc > 2 ? std::atol(argv[2]) : 1024;
  run(device, sdk::kF32, tokens);
  run(device, sdk::kBF16, tokens);
  return 0;
}
