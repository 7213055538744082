// The trainer's tensor: a shared accounted block, or a view into one.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>

#include "core/memory/memory.h"
#include "tenon/tensor.h"

namespace tenon::trainer {

inline constexpr tn_dtype kF32{TN_FLOAT, 32, 1}, kBF16{TN_BFLOAT, 16, 1}, kF16{TN_FLOAT, 16, 1}, kF64{TN_FLOAT, 64, 1}, kI32{TN_INT, 32, 1},
    kU8{TN_UINT, 8, 1};
constexpr bool operator==(tn_dtype a, tn_dtype b) { return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes; }
constexpr int64_t element_bytes(tn_dtype d) { return d.bits / 8; }

// A value: copies share the memory. Row-major unless made by `strided`.
class Tensor {
 public:
  Tensor() = default;
  // `data` is memory of `device`; a null block means that somebody else owns it.
  Tensor(std::shared_ptr<Block> block, void* data, tn_device_id device, tn_dtype dtype, std::initializer_list<int64_t> shape)
      : Tensor(std::move(block), data, device, dtype, shape.begin(), static_cast<int>(shape.size())) {}
  Tensor(std::shared_ptr<Block> block, void* data, tn_device_id device, tn_dtype dtype, const int64_t* shape, int ndim)
      : block_(std::move(block)), data_(data), device_(device), dtype_(dtype), ndim_(ndim) {
    int64_t stride = 1;
    for (int i = ndim - 1; i >= 0; --i) shape_[i] = shape[i], strides_[i] = stride, stride *= shape[i];
  }

  explicit operator bool() const { return ndim_ > 0; }
  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  tn_dtype dtype() const { return dtype_; }
  tn_device_id device() const { return device_; }
  int ndim() const { return ndim_; }
  int64_t dim(int i) const { return shape_[i < 0 ? ndim_ + i : i]; }
  const int64_t* shape() const { return shape_.data(); }
  int64_t count() const {
    int64_t n = 1;
    for (int i = 0; i < ndim_; ++i) n *= shape_[i];
    return n;
  }
  int64_t bytes() const { return count() * element_bytes(dtype_); }

  // The same memory under another row-major shape of the same count (of a contiguous tensor).
  Tensor reshaped(std::initializer_list<int64_t> shape) const { return {block_, data_, device_, dtype_, shape}; }
  Tensor reshaped(const int64_t* shape, int ndim) const { return {block_, data_, device_, dtype_, shape, ndim}; }
  // Rows [begin, end) of the first axis.
  Tensor rows(int64_t begin, int64_t end) const {
    Tensor t = *this;
    t.data_ = static_cast<char*>(data_) + begin * strides_[0] * element_bytes(dtype_);
    t.shape_[0] = end - begin;
    return t;
  }
  // Columns [begin, end) of the last axis; not contiguous.
  Tensor columns(int64_t begin, int64_t end) const {
    Tensor t = *this;
    t.data_ = static_cast<char*>(data_) + begin * strides_[ndim_ - 1] * element_bytes(dtype_);
    t.shape_[ndim_ - 1] = end - begin;
    return t;
  }
  Tensor with_strides(const int64_t* strides) const {
    Tensor t = *this;
    for (int i = 0; i < ndim_; ++i) t.strides_[i] = strides[i];
    return t;
  }
  Tensor transposed() const {
    Tensor t = *this;
    std::swap(t.shape_[0], t.shape_[1]), std::swap(t.strides_[0], t.strides_[1]);
    return t;
  }

  // Another tensor within the memory of this one, which it keeps alive.
  Tensor within(int64_t byte_offset, tn_dtype dtype, const int64_t* shape, int ndim) const {
    return {block_, static_cast<char*>(data_) + byte_offset, device_, dtype, shape, ndim};
  }

  // Another's tensor, without ownership.
  static Tensor borrowed(const tn_tensor& t) {
    return Tensor({}, static_cast<char*>(t.data) + t.byte_offset, t.device, t.dtype, t.shape, t.ndim).with_strides(t.strides);
  }
  // A borrowed tn_tensor whose lifetime is the full expression: pass as `f(t.ref())`.
  struct Ref {
    mutable tn_tensor t;
    operator tn_tensor*() const { return &t; }
  };
  Ref ref() const {
    return {{data_, device_, ndim_, dtype_, const_cast<int64_t*>(shape_.data()), const_cast<int64_t*>(strides_.data()), 0}};
  }

 private:
  std::shared_ptr<Block> block_;
  void* data_ = nullptr;
  tn_device_id device_{};
  tn_dtype dtype_{};
  int32_t ndim_ = 0;
  std::array<int64_t, 4> shape_{}, strides_{};
};

}  // namespace tenon::trainer
