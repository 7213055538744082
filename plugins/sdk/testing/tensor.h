// Tensors that tests own.
#pragma once

#include <cstring>
#include <initializer_list>
#include <memory>
#include <new>
#include <vector>

#include "sdk/tensor.h"
#include "sdk/testing/device_memory.h"

namespace tenon::sdk::testing {

// Memory aligned to TN_ALIGNMENT with a fence of known bytes behind it: `intact` tells whether somebody wrote past the
// end.
class Memory {
 public:
  explicit Memory(uint64_t n_bytes, uint8_t fill = 0) : n_(n_bytes), bytes_(allocate(n_bytes + kFence)) {
    const DeviceMemory::Reach reach;
    std::memset(bytes_.get(), fill, n_);
    std::memset(bytes_.get() + n_, 0xA5, kFence);
  }
  uint8_t* data() const { return bytes_.get(); }
  uint64_t size() const { return n_; }
  bool intact() const {
    DeviceMemory::get().open();
    for (uint64_t i = 0; i < kFence; ++i)
      if (bytes_[n_ + i] != 0xA5) return false;
    return true;
  }

 private:
  static constexpr uint64_t kFence = 64;
  struct Free {
    void operator()(uint8_t* p) const { DeviceMemory::get().release(p); }
  };
  static std::unique_ptr<uint8_t[], Free> allocate(uint64_t n) {
    return std::unique_ptr<uint8_t[], Free>(DeviceMemory::get().allocate(n));
  }
  uint64_t n_;
  std::unique_ptr<uint8_t[], Free> bytes_;
};

// A dense row-major tensor of zeros on the CPU. Movable; get() stays valid across moves of the Tensor object's owner
// only as long as the object itself lives.
class Tensor {
 public:
  Tensor(tn_dtype dtype, std::vector<int64_t> shape) : shape_(std::move(shape)), strides_(shape_.size()) {
    int64_t n = 1;
    for (size_t i = shape_.size(); i-- > 0;) strides_[i] = n, n *= shape_[i];
    memory_ = std::make_unique<Memory>(static_cast<uint64_t>(n) * dtype.bits / 8);
    view_ = {
        memory_->data(), {TN_CPU, 0}, static_cast<int32_t>(shape_.size()), dtype, shape_.data(), strides_.data(), 0};
  }
  // f32, bf16 (rounded to nearest) or f16 from floats.
  Tensor(tn_dtype dtype, std::vector<int64_t> shape, const std::vector<float>& values)
      : Tensor(dtype, std::move(shape)) {
    assign(values);
  }

  Tensor(Tensor&& other) noexcept { *this = std::move(other); }
  Tensor& operator=(Tensor&& other) noexcept {
    shape_ = std::move(other.shape_), strides_ = std::move(other.strides_), memory_ = std::move(other.memory_),
    view_ = other.view_;
    view_.shape = shape_.data(), view_.strides = strides_.data();
    return *this;
  }

  tn_tensor* get() { return &view_; }
  const tn_tensor* get() const { return &view_; }
  int64_t size() const { return count(view_); }
  uint64_t bytes() const { return memory_->size(); }
  bool intact() const { return memory_->intact(); }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(memory_->data());
  }

  void assign(const std::vector<float>& values) {
    if (static_cast<int64_t>(values.size()) != size())
      fail(TN_E_ARGUMENT, "the test gave another number of values than the tensor has");
    with_float_type(view_.dtype, "a test tensor", [&]<class T>(T) {
      for (size_t i = 0; i < values.size(); ++i) as<T>()[i] = from_float<T>(values[i]);
    });
  }
  std::vector<float> floats() const {
    std::vector<float> out(static_cast<size_t>(size()));
    with_float_type(view_.dtype, "a test tensor", [&]<class T>(T) {
      for (size_t i = 0; i < out.size(); ++i) out[i] = to_float(as<T>()[i]);
    });
    return out;
  }
  std::vector<uint8_t> raw() const { return {memory_->data(), memory_->data() + memory_->size()}; }
  Tensor clone() const {
    Tensor copy(view_.dtype, shape_);
    std::memcpy(copy.memory_->data(), memory_->data(), memory_->size());
    return copy;
  }

 private:
  std::vector<int64_t> shape_, strides_;
  std::unique_ptr<Memory> memory_;
  tn_tensor view_{};
};

// A view of memory that something else owns, with strides of the caller's choice (transposes, slices).
struct View {
  int64_t shape[4]{}, strides[4]{};
  tn_tensor tensor{};
  View(const View&) = delete;
  View(void* data, tn_dtype dtype, std::initializer_list<int64_t> dims, std::initializer_list<int64_t> steps) {
    std::copy(dims.begin(), dims.end(), shape);
    std::copy(steps.begin(), steps.end(), strides);
    tensor = {data, {TN_CPU, 0}, static_cast<int32_t>(dims.size()), dtype, shape, strides, 0};
  }
};

}  // namespace tenon::sdk::testing
