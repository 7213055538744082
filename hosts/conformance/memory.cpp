#include "hosts/conformance/memory.h"

#include <algorithm>
#include <cstring>

#include "hosts/conformance/check.h"
#include "sdk/dtype.h"
#include "sdk/tensor.h"
#include "tenon/ops.h"

namespace tenon::conformance {
namespace {

// Behind the content there is room for the usual mistake, a size that is wrong by a factor.
constexpr uint64_t kFront = 4096, kBack = 64 << 10;
constexpr uint8_t kFenceByte = 0xA5;

uint64_t padded(uint64_t bytes) {
  return (bytes + TN_ALIGNMENT - 1) / TN_ALIGNMENT * TN_ALIGNMENT;
}

// The table that is lent to techniques is the device's own but for `alloc`, which goes through here.
struct Lent {
  const tn_device_api* device = nullptr;
  tn_device_api table{};
  uint64_t taken = 0;
} lent;

int32_t note_alloc(tn_device* device, uint64_t n_bytes, void** out) {
  lent.taken += n_bytes;
  return lent.device->alloc(device, n_bytes, out);
}

}  // namespace

void Bench::lend() {
  lent.device = host;
  std::memcpy(&lent.table, host, std::min<size_t>(host->struct_size, sizeof lent.table));
  lent.table.alloc = note_alloc;
  api = &lent.table;
}

void Bench::wait() {
  must(api->stream_wait(device, stream), "waiting for the device");
}

void Bench::expect_intact(const std::string& during) {
  wait();
  for (const Tensor* t : live)
    if (const std::string f = t->finding(); !f.empty()) failed(during + ": " + f);
  expect(lent.taken == 0, during + ": the technique allocated " + std::to_string(lent.taken) +
                              " bytes of the device by itself; it must ask for workspace in its estimate");
}

tn_tensor transposed(const tn_tensor& t, int64_t* shape, int64_t* strides) {
  tn_tensor out = t;
  shape[0] = t.shape[1], shape[1] = t.shape[0], strides[0] = t.strides[1], strides[1] = t.strides[0];
  out.shape = shape, out.strides = strides;
  return out;
}

int32_t multiply(Bench& bench, const tn_tensor& a, const tn_tensor& b, double alpha, double beta, tn_tensor& c) {
  const tn_gemm g{TN_SIZE_TO(tn_gemm, packed_b), TN_GEMM_EXACT, &a, &b, &c, nullptr, alpha, beta, nullptr};
  uint64_t bytes = 0;
  if (const int32_t status = bench.api->gemm_workspace(bench.device, &g, &bytes); status < 0) return status;
  void* memory = nullptr;
  if (bytes && bench.host->alloc(bench.device, bytes, &memory) < 0) return TN_E_MEMORY;
  const int32_t status = bench.api->gemm(bench.device, bench.stream, &g, memory, bytes);
  bench.api->stream_wait(bench.device, bench.stream);
  if (memory) bench.host->free(bench.device, memory);
  return status;
}

int32_t axpby(Bench& bench, double alpha, const tn_tensor& x, double beta, tn_tensor& y) {
  const auto* ops = static_cast<const tn_ops*>(bench.host->get_extension(TN_EXT_OPS));
  return ops ? ops->axpby(bench.device, bench.stream, alpha, &x, beta, &y) : int32_t{TN_E_UNSUPPORTED};
}

std::vector<double> read(Bench& bench, const tn_tensor& t) {
  std::vector<double> out(static_cast<size_t>(sdk::count(t)));
  if (out.empty()) return out;
  int64_t span = 1;
  for (int32_t i = 0; i < t.ndim; ++i) span += (t.shape[i] - 1) * t.strides[i];
  std::vector<float> raw(static_cast<size_t>(span));
  bench.api->copy(bench.device, bench.stream, raw.data(), sdk::data<char>(t), raw.size() * 4, TN_COPY_TO_HOST);
  bench.api->stream_wait(bench.device, bench.stream);
  for (size_t e = 0; e < out.size(); ++e) {
    auto rest = static_cast<int64_t>(e);
    int64_t at = 0;
    for (int32_t i = t.ndim; i-- > 0; rest /= t.shape[i]) at += rest % t.shape[i] * t.strides[i];
    out[e] = raw[static_cast<size_t>(at)];
  }
  return out;
}

int32_t write(Bench& bench, const tn_tensor& t, const std::vector<double>& x) {
  if (!sdk::is_contiguous(t) || sdk::count(t) != static_cast<int64_t>(x.size())) return TN_E_UNSUPPORTED;
  const std::vector<float> narrow(x.begin(), x.end());
  bench.api->copy(bench.device, bench.stream, sdk::data<char>(t), narrow.data(), narrow.size() * 4, TN_COPY_TO_DEVICE);
  return bench.api->stream_wait(bench.device, bench.stream);
}

int32_t copy_rows(Bench& bench, const Tensor& from, int64_t begin, int64_t end, const tn_tensor& out) {
  const int64_t n = from.shape()[1];
  if (begin < 0 || end < begin || end > from.shape()[0] || !sdk::same(out.dtype, sdk::kF32) || out.shape[out.ndim - 1] != n) return TN_E_ARGUMENT;
  if (begin == end) return TN_OK;
  return bench.api->copy(bench.device, bench.stream, sdk::data<char>(out), static_cast<const float*>(from.data()) + begin * n,
                         static_cast<uint64_t>((end - begin) * n) * 4, TN_COPY_WITHIN);
}

Tensor::Tensor(Bench& bench, std::string name, tn_dtype dtype, std::vector<int64_t> shape)
    : bench_(bench), name_(std::move(name)), shape_(std::move(shape)), strides_(shape_.size()) {
  for (size_t i = shape_.size(); i-- > 0;) strides_[i] = count_, count_ *= shape_[i];
  bytes_ = static_cast<uint64_t>(count_) * dtype.bits / 8;
  void* memory = nullptr;
  must(bench.host->alloc(bench.device, kFront + padded(bytes_) + kBack, &memory), "allocating " + name_);
  memory_ = static_cast<uint8_t*>(memory);
  must(bench.api->fill(bench.device, bench.stream, memory_, kFenceByte, kFront + padded(bytes_) + kBack),
       "filling " + name_);
  view_ = {memory_ + kFront, bench.id, static_cast<int32_t>(shape_.size()), dtype, shape_.data(), strides_.data(), 0};
  fill(0);
  bench_.live.push_back(this);
}

Tensor::Tensor(Bench& bench, std::string name, tn_dtype dtype, std::vector<int64_t> shape,
               const std::vector<float>& values)
    : Tensor(bench, std::move(name), dtype, std::move(shape)) {
  set(values);
}

Tensor::~Tensor() {
  std::erase(bench_.live, this);
  bench_.api->stream_wait(bench_.device, bench_.stream);
  bench_.api->free(bench_.device, memory_);
}

void Tensor::fill(uint8_t byte) {
  if (bytes_) must(bench_.api->fill(bench_.device, bench_.stream, view_.data, byte, bytes_), "filling " + name_);
  bench_.wait();
}

void Tensor::set_raw(const std::vector<uint8_t>& bytes) {
  expect(bytes.size() == bytes_, "the battery gave " + name_ + " another number of bytes than it has");
  if (bytes_)
    must(bench_.api->copy(bench_.device, bench_.stream, view_.data, bytes.data(), bytes_, TN_COPY_TO_DEVICE),
         "writing " + name_);
  bench_.wait();
}

std::vector<uint8_t> Tensor::raw() const {
  std::vector<uint8_t> out(bytes_);
  if (bytes_)
    must(bench_.api->copy(bench_.device, bench_.stream, out.data(), view_.data, bytes_, TN_COPY_TO_HOST),
         "reading " + name_);
  bench_.wait();
  return out;
}

void Tensor::set(const std::vector<float>& values) {
  expect(static_cast<int64_t>(values.size()) == count_,
         "the battery gave " + name_ + " another number of values than it has");
  std::vector<uint8_t> bytes(bytes_);
  sdk::with_float_type(view_.dtype, "a tensor of the battery", [&]<class T>(T) {
    for (size_t i = 0; i < values.size(); ++i) {
      const T x = sdk::from_float<T>(values[i]);
      std::memcpy(&bytes[i * sizeof x], &x, sizeof x);
    }
  });
  set_raw(bytes);
}

std::vector<float> Tensor::floats() const {
  const std::vector<uint8_t> bytes = raw();
  std::vector<float> out(static_cast<size_t>(count_));
  sdk::with_float_type(view_.dtype, "a tensor of the battery", [&]<class T>(T) {
    for (size_t i = 0; i < out.size(); ++i) {
      T x;
      std::memcpy(&x, &bytes[i * sizeof x], sizeof x);
      out[i] = sdk::to_float(x);
    }
  });
  return out;
}

std::string Tensor::finding() const {
  std::vector<uint8_t> all(kFront + padded(bytes_) + kBack);
  must(bench_.api->copy(bench_.device, bench_.stream, all.data(), memory_, all.size(), TN_COPY_TO_HOST),
       "reading " + name_);
  bench_.wait();
  const auto broken = [](uint8_t b) { return b != kFenceByte; };
  if (std::any_of(all.begin(), all.begin() + kFront, broken)) return "it wrote before the start of " + name_;
  if (std::any_of(all.begin() + static_cast<int64_t>(kFront + bytes_), all.end(), broken))
    return "it wrote past the end of " + name_ + " (" + std::to_string(bytes_) + " bytes)";
  if (is_sealed_ && !std::equal(sealed_.begin(), sealed_.end(), all.begin() + kFront))
    return "it changed " + name_ + ", which it may only read";
  return {};
}

Exec::Exec(Bench& bench, uint64_t workspace_bytes, uint8_t poison)
    : workspace_(bench, "the workspace", sdk::kU8, {static_cast<int64_t>(workspace_bytes)}) {
  workspace_.fill(poison);
  exec_ = {TN_SIZE_TO(tn_exec, workspace_bytes),
           0,
           bench.api,
           bench.device,
           bench.stream,
           workspace_.data(),
           workspace_bytes};
}

}  // namespace tenon::conformance
