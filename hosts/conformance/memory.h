// Fenced memory on a device: what a plugin is given lies between known bytes, so that every write outside is found and
// named.
#pragma once

#include <cstdint>
#include <list>
#include <string>
#include <vector>

#include "tenon/device.h"

namespace tenon::conformance {

class Tensor;

// An open device and every fenced tensor that lives on it.
struct Bench {
  const tn_device_api* api = nullptr;   // what techniques are given
  const tn_device_api* host = nullptr;  // the device's own table, for what the host allocates
  tn_device* device = nullptr;
  tn_stream* stream = nullptr;
  tn_device_id id{};
  std::vector<const Tensor*> live;

  void wait();
  // The device's table for techniques: one that allocates by itself is found out. One bench of a process has it.
  void lend();
  // Fails, naming the tensor, where a fence is broken or a sealed tensor was changed, or where the technique took
  // memory of the device by itself.
  void expect_intact(const std::string& during);
};

// A matrix with its axes exchanged; shape and strides, two each, are the caller's and live as long as the view.
tn_tensor transposed(const tn_tensor& t, int64_t* shape, int64_t* strides);
// c = alpha · a · b + beta · c with f32 operands in f32, done when it returns; the status of the device.
int32_t multiply(Bench& bench, const tn_tensor& a, const tn_tensor& b, double alpha, double beta, tn_tensor& c);
// y = alpha · x + beta · y by the device's own function.
int32_t axpby(Bench& bench, double alpha, const tn_tensor& x, double beta, tn_tensor& y);
// An f32 tensor of any strides, in f64 on the host, row-major.
std::vector<double> read(Bench& bench, const tn_tensor& t);
// The reverse, into a dense tensor of as many elements; TN_E_UNSUPPORTED for another.
int32_t write(Bench& bench, const tn_tensor& t, const std::vector<double>& x);

// Rows [begin, end) of a matrix in f32; TN_E_ARGUMENT for rows that it has not and for an `out` of another width or dtype.
int32_t copy_rows(Bench& bench, const Tensor& from, int64_t begin, int64_t end, const tn_tensor& out);

// A dense row-major tensor between fences. `name` appears in findings: "state exp_avg of a [33, 130] parameter".
class Tensor {
 public:
  Tensor(Bench& bench, std::string name, tn_dtype dtype, std::vector<int64_t> shape);
  Tensor(Bench& bench, std::string name, tn_dtype dtype, std::vector<int64_t> shape, const std::vector<float>& values);
  ~Tensor();
  Tensor(const Tensor&) = delete;

  tn_tensor* get() { return &view_; }
  const std::string& name() const { return name_; }
  tn_dtype dtype() const { return view_.dtype; }
  const std::vector<int64_t>& shape() const { return shape_; }
  int64_t count() const { return count_; }
  uint64_t bytes() const { return bytes_; }
  void* data() const { return view_.data; }

  void set(const std::vector<float>& values);  // rounds to the dtype
  void set_raw(const std::vector<uint8_t>& bytes);
  void fill(uint8_t byte);
  std::vector<float> floats() const;
  std::vector<uint8_t> raw() const;
  // From now on any change is a finding, until `unseal`.
  void seal() { sealed_ = raw(), is_sealed_ = true; }
  void unseal() { is_sealed_ = false; }

  // Empty, or what is wrong with the fences or the seal.
  std::string finding() const;

 private:
  Bench& bench_;
  std::string name_;
  std::vector<int64_t> shape_, strides_;
  int64_t count_ = 1;
  uint64_t bytes_ = 0;
  uint8_t* memory_ = nullptr;  // front fence, content padded to the alignment, back fence
  tn_tensor view_{};
  std::vector<uint8_t> sealed_;
  bool is_sealed_ = false;
};

// Where a call runs: a workspace of exactly these bytes, fenced, filled with `poison` before use.
class Exec {
 public:
  Exec(Bench& bench, uint64_t workspace_bytes, uint8_t poison = 0xFF);
  const tn_exec* get() const { return &exec_; }

 private:
  Tensor workspace_;
  tn_exec exec_;
};

}  // namespace tenon::conformance
