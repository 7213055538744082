// Products of a training step through the device, next to oneDNN called alone in the same run: plain matmul, and sgemm
// where it applies. They take turns; figures and ratios are of medians, and a ratio of 0.95 is oneDNN within 5%.
//
//   benchmark_gemm [object.so] [rows]
#include <dnnl.hpp>

#include <algorithm>
#include <cstdio>

#include "device.h"

namespace {

using namespace tenon;
using benchmarks::Device;
using dnnl::memory;
using sdk::testing::Tensor;
using sdk::testing::View;

struct Product {
  const char* name;
  int64_t m, n, k;
  bool a_transposed, b_transposed;
};

// The library's own matmul over plain layouts, made once, with memory of its own.
class Alone {
 public:
  Alone(const Product& p, bool bf16, bool f32_result, double beta, const Tensor& a, const Tensor& b, Tensor& c)
      : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
    const auto type = bf16 ? memory::data_type::bf16 : memory::data_type::f32,
               result = f32_result ? memory::data_type::f32 : type;
    const memory::desc da({p.m, p.k}, type, p.a_transposed ? memory::dims{1, p.m} : memory::dims{p.k, 1}),
        db({p.k, p.n}, type, p.b_transposed ? memory::dims{1, p.k} : memory::dims{p.n, 1}),
        dc({p.m, p.n}, result, memory::dims{p.n, 1});
    dnnl::primitive_attr attr;
    if (beta != 0) {
      dnnl::post_ops sum;
      sum.append_sum(static_cast<float>(beta));
      attr.set_post_ops(sum);
    }
#if DNNL_VERSION_MAJOR >= 3
    const dnnl::matmul::primitive_desc pd(engine_, da, db, dc, attr);
#else
    const dnnl::matmul::primitive_desc pd({da, db, dc}, attr, engine_);
#endif
    primitive_ = dnnl::matmul(pd);
    args_ = {{DNNL_ARG_SRC, memory(da, engine_, a.get()->data)},
             {DNNL_ARG_WEIGHTS, memory(db, engine_, b.get()->data)},
             {DNNL_ARG_DST, memory(dc, engine_, c.get()->data)}};
  }
  void run() {
    primitive_.execute(stream_, args_);
    stream_.wait();
  }

 private:
  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::matmul primitive_;
  std::unordered_map<int, memory> args_;
};

Tensor filled(tn_dtype dtype, int64_t rows, int64_t cols) {
  Tensor t(dtype, {rows, cols});
  sdk::with_float_type(dtype, "", [&]<class T>(T) {
    for (int64_t i = 0; i < rows * cols; ++i)
      t.as<T>()[i] = sdk::from_float<T>(static_cast<float>(i % 97) * 0.01f - 0.5f);
  });
  return t;
}

// Prints a row and answers our speed, without packing, over the faster of the library's two ways.
double compare(Device& device, const Product& p, bool bf16, bool f32_result, double beta) {
  const tn_dtype type = bf16 ? sdk::kBF16 : sdk::kF32, result = f32_result ? sdk::kF32 : type;
  const Tensor a = filled(type, p.m, p.k), b = filled(type, p.k, p.n);
  Tensor c = filled(result, p.m, p.n), other = filled(result, p.m, p.n);
  const View va(a.get()->data, type, {p.m, p.k}, {p.a_transposed ? 1 : p.k, p.a_transposed ? p.m : 1});
  const View vb(b.get()->data, type, {p.k, p.n}, {p.b_transposed ? 1 : p.n, p.b_transposed ? p.k : 1});
  tn_gemm g{TN_SIZE_TO(tn_gemm, packed_b), 0, &va.tensor, &vb.tensor, c.get(), nullptr, 1.0, beta, nullptr};
  uint64_t bytes = 0, packed_bytes = 0;
  require(device, device.api->gemm_workspace(device.handle, &g, &bytes));
  sdk::testing::Memory workspace(bytes);
  require(device, device.api->pack_bytes(device.handle, &g, &packed_bytes));
  sdk::testing::Memory packed(packed_bytes);
  tn_gemm gp = g;
  if (packed_bytes) {
    require(device, device.api->pack(device.handle, nullptr, &g, packed.data()));
    gp.packed_b = packed.data();
  }
  uint64_t packed_workspace = 0;
  require(device, device.api->gemm_workspace(device.handle, &gp, &packed_workspace));
  sdk::testing::Memory space(packed_workspace);

  Alone alone(p, bf16, f32_result, beta, a, b, other);
  std::vector<std::function<void()>> runs = {
      [&] { require(device, device.api->gemm(device.handle, nullptr, &g, workspace.data(), bytes)); },
      [&] { require(device, device.api->gemm(device.handle, nullptr, &gp, space.data(), packed_workspace)); },
      [&] { alone.run(); },
  };
  if (!bf16)
    runs.push_back([&] {
      dnnl_sgemm(p.a_transposed ? 'T' : 'N', p.b_transposed ? 'T' : 'N', p.m, p.n, p.k, 1.0f, a.as<float>(),
                 p.a_transposed ? p.m : p.k, b.as<float>(), p.b_transposed ? p.k : p.n, static_cast<float>(beta),
                 other.as<float>(), p.n);
    });
  const double flop = 2.0 * static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(p.k);
  const auto seconds = benchmarks::median_seconds(runs, 0.4);
  const double ours = flop / seconds[0] * 1e-9, with_packed = flop / seconds[1] * 1e-9,
               matmul = flop / seconds[2] * 1e-9;
  const double sgemm = bf16 ? 0 : flop / seconds[3] * 1e-9, best = std::max(matmul, sgemm);
  char alone_sgemm[16] = "-";
  if (!bf16) std::snprintf(alone_sgemm, sizeof alone_sgemm, "%.0f", sgemm);
  std::printf("%-5s %6ld %6ld %6ld  %s->%-4s %s  %8.0f %8.0f %9.0f %8s %7.2f\n", p.name, static_cast<long>(p.m),
              static_cast<long>(p.n), static_cast<long>(p.k), bf16 ? "bf16" : "f32 ", f32_result ? "f32" : "bf16",
              beta != 0 ? "+=" : " =", ours, with_packed, matmul, alone_sgemm, ours / best);
  std::fflush(stdout);
  return ours / best;
}

}  // namespace

int main(int argc, char** argv) {
  Device device(argc > 1 ? argv[1] : TENON_DEVICE_OBJECT);
  const int64_t rows = argc > 2 ? std::atol(argv[2]) : 1024;
  const bool bf16 = sdk::same(device.info.gemm_dtype, sdk::kBF16);
  std::printf("GFLOP/s                              %8s %8s %9s %8s %7s\n", "device", "packed", "matmul", "sgemm",
              "ratio");
  const int64_t shapes[][2] = {{576, 576}, {192, 576}, {1536, 576}, {576, 1536}, {49152, 576},
                               {8, 576},   {64, 576},  {576, 8},    {576, 64}};
  std::vector<double> ratios;
  for (const auto& [n, k] : shapes) {
    const Product forward{"y", rows, n, k, false, true}, input{"dx", rows, k, n, false, false},
        weight{"dW", n, k, rows, true, false};
    for (const bool low : {false, true}) {
      if (low && !bf16) continue;  // bf16 alone is emulated here: no comparison
      ratios.push_back(compare(device, forward, low, !low, 0));
      ratios.push_back(compare(device, input, low, !low, 0));
      ratios.push_back(compare(device, weight, low, true, 1));
    }
  }
  std::sort(ratios.begin(), ratios.end());
  std::printf("ratios of medians: smallest %.2f, median %.2f; %ld of %zu reach 0.95\n", ratios[0],
              ratios[ratios.size() / 2],
              static_cast<long>(ratios.end() - std::lower_bound(ratios.begin(), ratios.end(), 0.95)), ratios.size());
  return 0;
}
