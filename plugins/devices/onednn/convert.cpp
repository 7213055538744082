#include "devices/onednn/convert.h"

#include <cstring>

#include "sdk/dtype.h"

namespace tenon::onednn {
namespace {

template <class Body>
void with_storage(Storage s, Body&& body) {
  if (s == Storage::kF32) return body(float{});
  if (s == Storage::kBF16) return body(sdk::bf16{});
  if (s == Storage::kF16) return body(sdk::f16{});
}

constexpr int64_t kSerialElements = 1 << 15;

// lines × length, unit stride along a line.
template <class S, class T>
void copy_lines(const S* from, int64_t lines, int64_t length, int64_t stride, T* to) {
#pragma omp parallel for schedule(static) if (lines * length > kSerialElements)
  for (int64_t r = 0; r < lines; ++r) {
    const S* const in = from + r * stride;
    T* const out = to + r * length;
    if constexpr (std::is_same_v<S, T>) {
      std::memcpy(out, in, static_cast<size_t>(length) * sizeof(T));
    } else {
#pragma omp simd
      for (int64_t i = 0; i < length; ++i) out[i] = sdk::from_float<T>(sdk::to_float(in[i]));
    }
  }
}

template <class S, class T>
void gather_lines(const S* from, int64_t lines, int64_t length, int64_t stride, int64_t element, T* to) {
#pragma omp parallel for schedule(static) if (lines * length > kSerialElements)
  for (int64_t r = 0; r < lines; ++r)
    for (int64_t i = 0; i < length; ++i)
      to[r * length + i] = sdk::from_float<T>(sdk::to_float(from[r * stride + i * element]));
}

template <class S, class T>
void copy_as(const Matrix& m, T* to) {
  const S* const from = static_cast<const S*>(m.data);
  if (m.col == 1) {
    copy_lines(from, m.rows, m.cols, m.row, to);
  } else if (m.row == 1) {
    copy_lines(from, m.cols, m.rows, m.col, to);
  } else {
    gather_lines(from, m.rows, m.cols, m.row, m.col, to);
  }
}

}  // namespace

void copy_matrix(const Matrix& from, Type type, void* to) {
  with_storage(from.type, [&]<class S>(S) {
    if (type == Type::kF32) {
      copy_as<S>(from, static_cast<float*>(to));
    } else {
      copy_as<S>(from, static_cast<sdk::bf16*>(to));
    }
  });
}

void copy_vector(Storage type, const void* from, int64_t stride, int64_t n, float* to) {
  with_storage(type, [&]<class S>(S) {
    for (int64_t i = 0; i < n; ++i) to[i] = sdk::to_float(static_cast<const S*>(from)[i * stride]);
  });
}

void finish_tile(const float* tile, int64_t m, int64_t n, double alpha, double beta, const float* row_bias,
                 const float* col_bias, Storage type, void* c, int64_t c_row, int64_t c_col) {
  const float a = static_cast<float>(alpha), b = static_cast<float>(beta);
  with_storage(type, [&]<class T>(T) {
#pragma omp parallel for schedule(static) if (m * n > kSerialElements)
    for (int64_t i = 0; i < m; ++i) {
      const float* const from = tile + i * n;
      T* const to = static_cast<T*>(c) + i * c_row;
      const float shift = row_bias ? row_bias[i] : 0.0f;
      const auto value = [=](int64_t j) { return a * from[j] + shift + (col_bias ? col_bias[j] : 0.0f); };
      if (c_col != 1) {
        for (int64_t j = 0; j < n; ++j)
          to[j * c_col] = sdk::from_float<T>(b == 0.0f ? value(j) : value(j) + b * sdk::to_float(to[j * c_col]));
      } else if (b == 0.0f && !col_bias) {
#pragma omp simd
        for (int64_t j = 0; j < n; ++j) to[j] = sdk::from_float<T>(a * from[j] + shift);
      } else if (b == 0.0f) {
#pragma omp simd
        for (int64_t j = 0; j < n; ++j) to[j] = sdk::from_float<T>(a * from[j] + shift + col_bias[j]);
      } else {
#pragma omp simd
        for (int64_t j = 0; j < n; ++j) to[j] = sdk::from_float<T>(value(j) + b * sdk::to_float(to[j]));
      }
    }
  });
}

void scale_row(Storage type, void* c, int64_t n, int64_t c_col, double beta, Storage bias_type, const void* bias,
               int64_t bias_stride) {
  const float b = static_cast<float>(beta);
  with_storage(type, [&]<class T>(T) {
    T* const to = static_cast<T*>(c);
    for (int64_t j = 0; j < n; ++j) {
      float shift = 0;
      with_storage(bias_type, [&]<class S>(S) { shift = sdk::to_float(static_cast<const S*>(bias)[j * bias_stride]); });
      to[j * c_col] = sdk::from_float<T>(b == 0.0f ? shift : b * sdk::to_float(to[j * c_col]) + shift);
    }
  });
}

}  // namespace tenon::onednn
