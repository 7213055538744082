// org.tenon.gemm-fp8/1. Where nothing multiplies FP8: bf16 holds every code, so that the product of decoded codes is the same, and slower. A few
// rows are multiplied as the codes are read.
//
// A Backend offers `host(device)`, `exec(device, stream)`, `api()`, kHostReadable: whether scales may be read here, codes_as_bf16(): whether products of
// bf16 are the faster ones, and, for what a library multiplies as it is, fp8_workspace() and fp8_product(): false where there is none.
#pragma once

#include <cmath>
#include <string>

#include "sdk/for_each.h"
#include "sdk/fp8.h"
#include "sdk/linalg/matrix.h"
#include "sdk/workspace.h"
#include "tenon/gemm_fp8.h"

namespace tenon::ops {

inline void check_fp8(const tn_fp8_product& p) {
  if (p.m < 0 || p.n < 0 || p.k < 0 || p.a_row < p.k || p.b_row < p.k || p.c_row < p.n)
    sdk::fail(TN_E_ARGUMENT, "gemm-fp8: sizes " + std::to_string(p.m) + " x " + std::to_string(p.n) + " x " + std::to_string(p.k) + " and their strides do not form a product");
  if (!sdk::same(p.c_dtype, sdk::kF32) && !sdk::same(p.c_dtype, sdk::kBF16)) sdk::fail(TN_E_UNSUPPORTED, "gemm-fp8: C must be f32 or bf16");
}
inline void check_fp8_pointers(const tn_fp8_product& p) {
  for (const void* at : {static_cast<const void*>(p.a), static_cast<const void*>(p.b), static_cast<const void*>(p.c)})
    if (reinterpret_cast<uintptr_t>(at) % 16 != 0) sdk::fail(TN_E_ARGUMENT, "gemm-fp8: A, B and C must begin at multiples of 16 bytes");
}

// Rows of codes as dense rows of T.
template <class T>
struct DecodeRows {
  const uint8_t* codes;
  int64_t stride, columns;
  T* to;
  float factor = 1;  // a power of two, of f32 alone
  TN_FN void operator()(const sdk::Block& row) const {
    const uint8_t* const q = codes + row.index * stride;
    T* const out = to + row.index * columns;
    if constexpr (std::is_same_v<T, float>) {
      const float times = factor;
      row.each(columns, [=](int64_t i) { out[i] = times * sdk::from_e4m3(q[i]); });
    } else {
      row.each(columns, [=](int64_t i) { out[i] = sdk::e4m3_as_bf16(q[i]); });
    }
  }
};

// Up to so many rows of A meet the codes of B as they are read, once: what decodes a token, and is bound by B's bytes.
inline constexpr int64_t kFewRows = 4;
inline constexpr float kLifted = 0x1p119f;  // 448 times it is a number still

template <class T>
struct FewRows {
  tn_fp8_product p;
  const float* a;  // decoded, times kLifted, [m, k]
  T* c;
  TN_FN void operator()(const sdk::Block& column) const {
    const int64_t k = p.k;
    const uint8_t* const q = p.b + column.index * p.b_row;
    const float factor = static_cast<float>(p.alpha) * (*p.a_scale * *p.b_scale) * (0x1p120f / kLifted), keep = static_cast<float>(p.beta);
    for (int64_t i = 0; i < p.m; ++i) {
      const float* const x = a + i * k;
      const float sum = column.sum(k, [=](int64_t l) { return x[l] * sdk::tiny_from_e4m3(q[l]); });
      T* const out = c + i * p.c_row + column.index;
      column.each(1, [=](int64_t) { *out = sdk::from_float<T>(factor * sum + (keep == 0 ? 0.0f : keep * sdk::to_float(*out))); });
    }
  }
};

// C from sums without scales, [m, n] and dense.
template <class T>
struct ScaleSums {
  const float *sums, *a_scale, *b_scale;
  int64_t n, stride;
  float alpha, beta;
  T* c;
  TN_FN void operator()(const sdk::Block& row) const {
    const float factor = alpha * (*a_scale * *b_scale), keep = beta;
    const float* const from = sums + row.index * n;
    T* const out = c + row.index * stride;
    if (keep == 0)
      row.each(n, [=](int64_t i) { out[i] = sdk::from_float<T>(factor * from[i]); });
    else
      row.each(n, [=](int64_t i) { out[i] = sdk::from_float<T>(factor * from[i] + keep * sdk::to_float(out[i])); });
  }
};

template <class Backend>
class Fp8Products {
 public:
  static int32_t workspace(tn_device* device, const tn_fp8_product* p, uint64_t* n_bytes) {
    return sdk::guard(Backend::host(device), [&] {
      check_fp8(*p);
      *n_bytes = 0;
      if (p->m == 0 || p->n == 0 || Backend::fp8_workspace(device, *p, n_bytes)) return;
      sdk::Workspace space;
      const Parts parts(space, *p);
      if (p->m <= kFewRows) return void(*n_bytes = space.peak());
      const sdk::Products products(Backend::api(), device);
      const sdk::Matrix c = sdk::Matrix::dense(nullptr, kReadable ? p->c_dtype : sdk::kF32, p->m, p->n);
      *n_bytes = space.peak() + products.measure(parts.a, parts.b.transposed(), c, kReadable ? 0.5 : 1.0, kReadable ? p->beta : 0.0);
    });
  }
  static int32_t run(tn_device* device, tn_stream* stream, const tn_fp8_product* p, void* workspace, uint64_t workspace_bytes) {
    return sdk::guard(Backend::host(device), [&] {
      check_fp8(*p), check_fp8_pointers(*p);
      if (p->m > 0 && p->n > 0 && !Backend::fp8_product(device, stream, *p, workspace, workspace_bytes)) multiply(device, stream, *p, workspace, workspace_bytes);
    });
  }

 private:
  static constexpr bool kReadable = Backend::kHostReadable;
  struct Parts {
    sdk::Matrix a, b;
    float* sums;
    uint64_t end;
    Parts(sdk::Workspace& w, const tn_fp8_product& p)
        : a(take(w, p.m, p.k, p.m <= kFewRows)),
          b(take(w, p.m <= kFewRows ? 0 : p.n, p.k, false)),
          sums(w.take<float>(kReadable || p.m <= kFewRows ? 0 : p.m * p.n)),
          end(w.mark()) {}
    static sdk::Matrix take(sdk::Workspace& w, int64_t rows, int64_t columns, bool in_f32) {
      if (!in_f32 && Backend::codes_as_bf16()) return sdk::Matrix::dense(w.take<sdk::bf16>(rows * columns), sdk::kBF16, rows, columns);
      return sdk::Matrix::dense(w.take<float>(rows * columns), rows, columns);
    }
  };
  static void multiply(tn_device* device, tn_stream* stream, const tn_fp8_product& p, void* workspace, uint64_t workspace_bytes) {
    tn_exec exec = Backend::exec(device, stream);
    exec.workspace = workspace, exec.workspace_bytes = workspace_bytes;
    sdk::Workspace space(exec);
    const Parts parts(space, p);
    if (space.peak() > workspace_bytes)
      sdk::fail(TN_E_ARGUMENT, "gemm-fp8: the workspace has " + std::to_string(workspace_bytes) + " bytes where codes alone take " + std::to_string(space.peak()));
    const bool few = p.m <= kFewRows;
    decode(exec, p.a, p.a_row, parts.a, few ? kLifted : 1.0f);
    const auto to_c = [&](auto&& body) { sdk::same(p.c_dtype, sdk::kF32) ? body(static_cast<float*>(p.c)) : body(static_cast<sdk::bf16*>(p.c)); };
    if (few)
      return to_c([&]<class T>(T* c) { sdk::for_each_block(&exec, p.n, FewRows<T>{p, static_cast<const float*>(parts.a.data), c}, p.m * p.k); });
    decode(exec, p.b, p.b_row, parts.b);
    const sdk::Products products(Backend::api(), device, stream, space.behind(parts.end), space.bytes_behind(parts.end));
    if constexpr (kReadable) {
      // The workspace is that of a factor that is not 0 or 1; one that happens to be goes a step aside, which no f32 shows.
      double factor = p.alpha * *p.a_scale * *p.b_scale;
      if (factor == 0 || factor == 1) factor = std::nextafter(factor, 2.0);
      products(factor, parts.a, parts.b.transposed(), p.beta, {p.c, p.c_dtype, p.m, p.n, p.c_row, 1});
    } else {
      products(1, parts.a, parts.b.transposed(), 0, sdk::Matrix::dense(parts.sums, p.m, p.n));
      to_c([&]<class T>(T* c) {
        sdk::for_each_block(&exec, p.m, ScaleSums<T>{parts.sums, p.a_scale, p.b_scale, p.n, p.c_row, static_cast<float>(p.alpha), static_cast<float>(p.beta), c}, p.n);
      });
    }
  }
  static void decode(const tn_exec& exec, const uint8_t* codes, int64_t stride, const sdk::Matrix& to, float factor = 1) {
    const auto rows = [&]<class T>(T* out) { sdk::for_each_block(&exec, to.rows, DecodeRows<T>{codes, stride, to.columns, out, factor}, to.columns); };
    if (sdk::same(to.dtype, sdk::kBF16))
      rows(static_cast<sdk::bf16*>(to.data));
    else
      rows(static_cast<float*>(to.data));
  }
};

template <class Backend>
constexpr tn_gemm_fp8 fp8_table() {
  return {TN_SIZE_TO(tn_gemm_fp8, run), 0, Fp8Products<Backend>::workspace, Fp8Products<Backend>::run};
}

}  // namespace tenon::ops
