// What tests of the emulated device share.
#pragma once

#include <deque>

#include "sdk/philox.h"
#include "sdk/testing/host.h"
#include "tenon/ops.h"

namespace tenon::sdk::testing {

// A device plugin that is opened, and tensors in its memory.
class Opened {
 public:
  explicit Opened(const char* object) : api_(*static_cast<const tn_device_api*>(load_plugin(host_, object).api)) {
    ops = static_cast<const tn_ops*>(api_.get_extension(TN_EXT_OPS));
    must(api_.open(host_.get(), 0, &device));
    must(api_.stream_create(device, &stream));
  }
  ~Opened() {
    for (void* p : memory_) api_.free(device, p);
    api_.stream_destroy(device, stream);
    api_.close(device);
  }
  Opened(const Opened&) = delete;

  // A view of a copy of `from`: its elements from `first` on, with this shape and these strides.
  const tn_tensor* view(const Tensor& from, std::initializer_list<int64_t> shape, std::initializer_list<int64_t> strides, int64_t first = 0) {
    void* const p = take(from.bytes());
    must(api_.copy(device, stream, p, from.get()->data, from.bytes(), TN_COPY_TO_DEVICE));
    View& v = views_.emplace_back(p, from.get()->dtype, shape, strides);
    v.tensor.byte_offset = static_cast<uint64_t>(first * from.get()->dtype.bits / 8);
    return &v.tensor;
  }
  const tn_tensor* copy(const Tensor& from) {
    const tn_tensor& t = *from.get();
    if (t.ndim == 1) return view(from, {t.shape[0]}, {1});
    return view(from, {t.shape[0], t.shape[1]}, {t.shape[1], 1});
  }
  // The whole memory behind a view, as `like` has it.
  Tensor back(const tn_tensor* t, const Tensor& like) {
    Tensor out = like.clone();
    must(api_.copy(device, stream, out.get()->data, t->data, out.bytes(), TN_COPY_TO_HOST));
    must(api_.stream_wait(device, stream));
    return out;
  }
  void must(int32_t status) {
    if (status != TN_OK) fail(status, host_.error);
  }

  const tn_device_api& api() const { return api_; }
  const std::string& said() const { return host_.error; }
  // Memory of the device, given back at the end.
  void* take(uint64_t bytes) {
    void* p = nullptr;
    must(api_.alloc(device, bytes, &p));
    memory_.push_back(p);
    return p;
  }

  const tn_ops* ops = nullptr;
  tn_device* device = nullptr;
  tn_stream* stream = nullptr;

 private:
  FakeHost host_;
  const tn_device_api& api_;
  std::vector<void*> memory_;
  std::deque<View> views_;
};

inline std::vector<float> noise(int64_t n, uint64_t seed) {
  std::vector<float> x(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) x[static_cast<size_t>(i)] = normal({seed, 0, 0}, static_cast<uint64_t>(i));
  return x;
}
}  // namespace tenon::sdk::testing
