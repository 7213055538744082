// Checks of devices: memory, streams, matrix products.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "hosts/conformance/check.h"
#include "hosts/conformance/device_checks.h"
#include "hosts/conformance/numbers.h"
#include "sdk/dtype.h"

namespace tenon::conformance {
namespace {

void info(Subject& s) {
  Bench& b = s.bench();
  for (const bool longer : {false, true}) {
    Longer<tn_device_info> i;
    must(b.api->info(b.device, 0, i.get(TN_SIZE_TO(tn_device_info, bytes_per_second), longer)), "info");
    expect(i.intact(), "info wrote past the end of tn_device_info as this ABI knows it");
    const tn_device_info& d = i.value;
    const auto ends = [](const char* text, size_t n) { return std::memchr(text, 0, n) != nullptr && *text; };
    expect(ends(d.name, sizeof d.name) && ends(d.arch, sizeof d.arch) && ends(d.runtime, sizeof d.runtime),
           "name, arch or runtime is empty or does not end");
    expect(d.n_threads > 0 && d.total_bytes > 0 && d.free_bytes <= d.total_bytes, "threads or bytes are impossible");
    expect(sdk::same(d.gemm_dtype, sdk::kF32) || sdk::same(d.gemm_dtype, sdk::kBF16),
           "gemm_dtype is neither f32 nor bf16");
    expect(d.id.type != 0, "the device type is undefined");
  }
  uint32_t n = 0;
  must(b.api->count(host(), &n), "count");
  tn_device* none = nullptr;
  expect(!accepted(b.api->open(host(), n + 5, &none), "open of a device that is not there"),
         "open accepts an index beyond the number of devices");
}

void memory(Subject& s) {
  Bench& b = s.bench();
  for (const uint64_t bytes : {1, 63, 64, 65, 4096, 1 << 20}) {
    void* p = nullptr;
    must(b.api->alloc(b.device, bytes, &p), "alloc");
    expect(p && reinterpret_cast<uintptr_t>(p) % TN_ALIGNMENT == 0, "memory is not aligned to TN_ALIGNMENT");
    std::vector<uint8_t> out(bytes), in(bytes);
    for (uint64_t i = 0; i < bytes; ++i) out[i] = static_cast<uint8_t>(i * 7 + 3);
    must(b.api->copy(b.device, b.stream, p, out.data(), bytes, TN_COPY_TO_DEVICE), "copy to the device");
    must(b.api->copy(b.device, b.stream, in.data(), p, bytes, TN_COPY_TO_HOST), "copy to the host");
    b.wait();
    expect(in == out, "bytes come back changed");
    must(b.api->fill(b.device, b.stream, p, 0x5A, bytes), "fill");
    must(b.api->copy(b.device, b.stream, in.data(), p, bytes, TN_COPY_TO_HOST), "copy to the host");
    b.wait();
    expect(std::all_of(in.begin(), in.end(), [](uint8_t x) { return x == 0x5A; }), "fill left other bytes");
    b.api->free(b.device, p);
  }
  Tensor from(b, "the source of a copy", sdk::kF32, {1000}, normals(1000, 1)),
      to(b, "the target of a copy", sdk::kF32, {1000});
  from.seal();
  must(b.api->copy(b.device, b.stream, to.data(), from.data(), from.bytes(), TN_COPY_WITHIN), "copy within the device");
  b.expect_intact("copy");
  expect(to.raw() == from.raw(), "a copy within the device changed bytes");
  void* impossible = nullptr;
  expect(!accepted(b.api->alloc(b.device, uint64_t{1} << 60, &impossible), "an impossible allocation"),
         "an exbibyte was allocated");
}

void streams(Subject& s) {
  Bench& b = s.bench();
  tn_stream* other = nullptr;
  must(b.api->stream_create(b.device, &other), "stream_create");
  tn_event *begin = nullptr, *end = nullptr;
  must(b.api->event_create(b.device, &begin), "event_create"),
      must(b.api->event_create(b.device, &end), "event_create");
  Tensor t(b, "a filled tensor", sdk::kU8, {1 << 20});
  must(b.api->event_record(b.device, begin, b.stream), "event_record");
  for (int i = 0; i < 10; ++i)
    must(b.api->fill(b.device, b.stream, t.data(), static_cast<uint8_t>(i), t.bytes()), "fill");
  must(b.api->event_record(b.device, end, b.stream), "event_record");
  must(b.api->stream_wait_event(b.device, other, end), "stream_wait_event");
  double seconds = -1;
  must(b.api->event_seconds(b.device, begin, end, &seconds), "event_seconds");
  expect(seconds >= 0 && seconds < 60, "two events are " + std::to_string(seconds) + " seconds apart");
  must(b.api->stream_wait(b.device, other), "stream_wait");
  expect(t.raw()[12345] == 9, "the last fill is not what the stream left");
  b.api->event_destroy(b.device, begin), b.api->event_destroy(b.device, end), b.api->stream_destroy(b.device, other);
}

struct Product {
  int64_t batch, m, n, k;
  tn_dtype a, b, c;
  bool a_transposed = false, b_transposed = false, bias = false, wide_c = false, packed = false;
  double alpha = 1, beta = 0;
  uint32_t flags = 0;

  std::string text() const {
    const auto type = [](tn_dtype d) { return d.code == TN_BFLOAT ? "bf16" : d.bits == 16 ? "f16" : "f32"; };
    return std::string(type(a)) + (a_transposed ? "ᵀ" : "") + " · " + type(b) + (b_transposed ? "ᵀ" : "") + " → " +
           type(c) + " of " + shape_text({batch, m, n, k}) + (bias ? " with bias" : "") + (packed ? ", packed" : "") +
           (beta != 0 ? ", added" : "");
  }
};

// A matrix as a view: transposed storage, or rows with a gap.
struct Matrix {
  int64_t shape[3], strides[3];
  tn_tensor t;
  Matrix(Tensor& memory, int64_t batch, int64_t rows, int64_t columns, bool transposed, int64_t gap = 0)
      : shape{batch, rows, columns} {
    strides[0] = transposed ? columns * rows : rows * (columns + gap), strides[1] = transposed ? 1 : columns + gap,
    strides[2] = transposed ? rows : 1;
    t = *memory.get();
    t.ndim = batch == 1 ? 2 : 3, t.shape = shape + (batch == 1), t.strides = strides + (batch == 1);
  }
  int64_t at(int64_t b, int64_t i, int64_t j) const { return b * strides[0] + i * strides[1] + j * strides[2]; }
};

void multiply(Subject& s, const Product& p) {
  Bench& bench = s.bench();
  const int64_t gap = p.wide_c ? 5 : 0;
  Tensor a(bench, "A of a product", p.a, {p.batch * p.m * p.k}, normals(p.batch * p.m * p.k, 1)),
      b(bench, "B of a product", p.b, {p.batch * p.k * p.n}, normals(p.batch * p.k * p.n, 2)),
      c(bench, "C of a product", p.c, {p.batch * p.m * (p.n + gap)}),
      bias(bench, "the bias of a product", sdk::kF32, {p.n}, normals(p.n, 3));
  const std::vector<float> before = normals(c.count(), 4);
  if (p.beta == 0)
    c.fill(0xFF);  // NaN: beta = 0 must not read C
  else
    c.set(before);
  const std::vector<float> c0 = c.floats(), va = a.floats(), vb = b.floats(), vbias = bias.floats();
  a.seal(), b.seal(), bias.seal();
  Matrix ma(a, p.batch, p.m, p.k, p.a_transposed), mb(b, p.batch, p.k, p.n, p.b_transposed),
      mc(c, p.batch, p.m, p.n, false, gap);
  tn_gemm g{TN_SIZE_TO(tn_gemm, packed_b), p.flags, &ma.t,  &mb.t,  &mc.t,
            p.bias ? bias.get() : nullptr, p.alpha, p.beta, nullptr};
  std::unique_ptr<Tensor> packed;
  if (p.packed) {
    uint64_t bytes = 0;
    must(bench.api->pack_bytes(bench.device, &g, &bytes), "pack_bytes");
    if (bytes == 0) return;
    packed = std::make_unique<Tensor>(bench, "packed B", sdk::kU8, std::vector<int64_t>{static_cast<int64_t>(bytes)});
    must(bench.api->pack(bench.device, bench.stream, &g, packed->data()), "pack");
    bench.expect_intact("pack");
    packed->seal();
    g.packed_b = packed->data();
  }
  uint64_t bytes = 0;
  must(bench.api->gemm_workspace(bench.device, &g, &bytes), "gemm_workspace of " + p.text());
  Tensor workspace(bench, "the workspace of a product", sdk::kU8, {static_cast<int64_t>(bytes)});
  workspace.fill(0xFF);
  must(bench.api->gemm(bench.device, bench.stream, &g, workspace.data(), bytes), "gemm of " + p.text());
  bench.expect_intact("gemm of " + p.text());
  const std::vector<float> got = c.floats();
  // Without TN_GEMM_EXACT an f32 operand may be multiplied in fewer bits.
  const bool rounded = !(p.flags & TN_GEMM_EXACT) && (p.a.bits == 32 || p.b.bits == 32);
  const double rounding = (p.c.bits == 16 ? 0x1p-8 : 0) + (rounded ? 8e-3 : 4e-6);
  for (int64_t q = 0; q < p.batch; ++q)
    for (int64_t i = 0; i < p.m; ++i) {
      for (int64_t j = 0; j < p.n; ++j) {
        double sum = 0, size = 0;
        for (int64_t k = 0; k < p.k; ++k) {
          const double term = double{va[ma.at(q, i, k)]} * vb[mb.at(q, k, j)];
          sum += term, size += std::fabs(term);
        }
        double want = p.alpha * sum + (p.bias ? vbias[j] : 0);
        if (p.beta != 0) want += p.beta * c0[mc.at(q, i, j)];
        expect(
            std::fabs(got[mc.at(q, i, j)] - want) <= rounding * (std::fabs(p.alpha) * size + std::fabs(want) + 1e-3),
            p.text() + " gives " + std::to_string(got[mc.at(q, i, j)]) + " where the sum is " + std::to_string(want));
      }
      for (int64_t j = 0; j < gap; ++j) {
        const size_t at = static_cast<size_t>(mc.at(q, i, p.n + j));
        expect(std::memcmp(&got[at], &c0[at], sizeof got[at]) == 0, "gemm writes between the rows of a strided C");
      }
    }
}

void products(Subject& s) {
  for (const auto& [m, n, k] : {std::tuple<int64_t, int64_t, int64_t>{1, 1, 1},
                                {7, 3, 5},
                                {33, 130, 65},
                                {1, 256, 64},
                                {256, 1, 64},
                                {64, 64, 256}})
    for (const int layout : {0, 1, 2, 3})
      for (const uint32_t flags : {0u, uint32_t{TN_GEMM_EXACT}}) {
        Product p{1, m, n, k, sdk::kF32, sdk::kF32, sdk::kF32};
        p.a_transposed = layout & 1, p.b_transposed = layout & 2, p.flags = flags;
        multiply(s, p);
        p.alpha = -0.5, p.beta = 2, p.wide_c = true;
        multiply(s, p);
      }
}

void product_types(Subject& s) {
  for (const tn_dtype a : {sdk::kF32, sdk::kBF16, sdk::kF16})
    for (const tn_dtype b : {sdk::kF32, sdk::kBF16, sdk::kF16})
      for (const tn_dtype c : {sdk::kF32, sdk::kBF16}) {
        Product p{1, 17, 40, 33, a, b, c};
        p.b_transposed = true;
        multiply(s, p);
        p.beta = 1, p.b_transposed = false;
        multiply(s, p);
      }
}

void product_forms(Subject& s) {
  Product p{3, 9, 12, 10, sdk::kF32, sdk::kF32, sdk::kF32};
  p.flags = TN_GEMM_EXACT;
  multiply(s, p);
  p.b_transposed = true, p.beta = 1;
  multiply(s, p);
  p.batch = 1, p.beta = 0, p.bias = true;
  multiply(s, p);
  p.bias = false;
  if (TN_HAS(s.bench().api, tn_device_api, pack) && s.bench().api->pack && s.bench().api->pack_bytes) {
    for (const int64_t size : {12, 130, 512}) {
      p.packed = true, p.m = 40, p.n = p.k = size;
      multiply(s, p);
    }
  }
}

void product_refusals(Subject& s) {
  Bench& b = s.bench();
  Tensor x(b, "A", sdk::kF32, {12}), y(b, "B", sdk::kF32, {12}), z(b, "C", sdk::kF32, {16}), i(b, "C", sdk::kI32, {16});
  Matrix a(x, 1, 4, 3, false), wrong(y, 1, 4, 3, false), c(z, 1, 4, 4, false), ints(i, 1, 4, 4, false),
      right(y, 1, 3, 4, false);
  for (const auto& [mb, mc, what] : {std::tuple<Matrix*, Matrix*, const char*>{&wrong, &c, "matrices that do not fit"},
                                     {&right, &ints, "a result in int32"}}) {
    const tn_gemm g{TN_SIZE_TO(tn_gemm, packed_b), 0, &a.t, &mb->t, &mc->t, nullptr, 1, 0, nullptr};
    Tensor workspace(b, "workspace", sdk::kU8, {1 << 16});
    expect(!accepted(b.api->gemm(b.device, b.stream, &g, workspace.data(), workspace.bytes()),
                     std::string("gemm of ") + what),
           std::string("gemm accepts ") + what);
  }
}

void product_determinism(Subject& s) {
  Bench& b = s.bench();
  Tensor x(b, "A", sdk::kF32, {70 * 90}, normals(70 * 90, 1)), y(b, "B", sdk::kF32, {90 * 50}, normals(90 * 50, 2)),
      z(b, "C", sdk::kF32, {70 * 50});
  Matrix a(x, 1, 70, 90, false), m(y, 1, 90, 50, false), c(z, 1, 70, 50, false);
  const tn_gemm g{TN_SIZE_TO(tn_gemm, packed_b), TN_GEMM_EXACT, &a.t, &m.t, &c.t, nullptr, 1, 0, nullptr};
  const auto run = [&](uint8_t poison) {
    uint64_t bytes = 0;
    must(b.api->gemm_workspace(b.device, &g, &bytes), "gemm_workspace");
    Tensor workspace(b, "workspace", sdk::kU8, {static_cast<int64_t>(bytes)});
    workspace.fill(poison), z.fill(poison);
    must(b.api->gemm(b.device, b.stream, &g, workspace.data(), bytes), "gemm");
    b.wait();
    return z.raw();
  };
  const auto first = run(0xFF);
  expect(run(0xFF) == first, "a product gives other bits the second time");
  expect(run(0) == first, "a product depends on what its workspace held before");
}

// A caller asks once for a product whose factors change from step to step.
void product_workspaces(Subject& s) {
  Bench& b = s.bench();
  int64_t shapes[3][2] = {{257, 4096}, {4096, 130}, {257, 130}}, strides[3][2] = {{4096, 1}, {130, 1}, {130, 1}};
  tn_tensor t[3];
  for (const tn_dtype type : {sdk::kF32, sdk::kBF16})
    for (const auto& kind : {std::pair{1.0, 0.0}, {0.3, 0.0}, {0.3, 1.0}, {1.0, 0.3}, {0.3, 0.3}}) {
      const auto ask = [&](double change, void* data) {
        for (int i = 0; i < 3; ++i) t[i] = {data, b.id, 2, i < 2 ? type : sdk::kF32, shapes[i], strides[i], 0};
        const auto factor = [&](double x) { return x == 0 || x == 1 ? x : x * change; };
        const tn_gemm g{TN_SIZE_TO(tn_gemm, packed_b), 0, &t[0], &t[1], &t[2], nullptr, factor(kind.first), factor(kind.second), nullptr};
        uint64_t bytes = 0;
        must(b.api->gemm_workspace(b.device, &g, &bytes), "gemm_workspace");
        return bytes;
      };
      Tensor memory(b, "memory that nobody reads", sdk::kU8, {64});
      const uint64_t bytes = ask(1, nullptr);
      for (const double change : {-2.0, 1e-3, 1e3})
        expect(ask(change, memory.data()) == bytes, "gemm_workspace gives other bytes for other factors that are neither 0 nor 1, or for other data pointers");
    }
}

void leaks(Subject& s) {
  expect_no_leak([&] { product_determinism(s); });
  expect_no_leak([&] { streams(s); });
}

constexpr Check kChecks[] = {
    {"info", "the device describes itself and refuses an index that is not there", info},
    {"memory", "allocations are aligned, copies and fills exact, the impossible is refused", memory},
    {"streams", "streams and events order work", streams},
    {"products", "products equal the sums in f64 for every layout and shape", products},
    {"product types", "f32, bf16 and f16 in any combination", product_types},
    {"product forms", "batches, bias, packed operands", product_forms},
    {"product refusals", "what does not fit is refused in words", product_refusals},
    {"product workspaces", "a workspace depends on nothing but what the ABI names", product_workspaces},
    {"product determinism", "equal bits again, whatever the workspace held", product_determinism},
    {"integers", "products of 8-bit integers are exact, whatever their sizes and strides", integers},
    {"small floats", "products of 8-bit floats are their codes' sums under the scales, whatever their sizes and strides", small_floats},
    {"norms", "rms_norm and its gradients", norms},
    {"rotary", "rope rotates, and turns back", rotary},
    {"gates", "swiglu and its gradients", gates},
    {"sums", "axpby, bias, sums of squares", sums},
    {"tokens", "embedding and its gradient, cross-entropy", tokens},
    {"draws", "random numbers are those of the ABI's generator", draws},
    {"ops determinism", "operators give equal bits for any number of threads", ops_determinism},
    {"leaks", "host memory does not grow with calls", leaks},
};

}  // namespace

std::span<const Check> device_checks() {
  return kChecks;
}

}  // namespace tenon::conformance
