// An opened device: the plugin, the handle, and what every user of it asks first.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/catalog/catalog.h"
#include "tenon/device.h"
#include "tenon/ops.h"

namespace tenon {

// A value: copies share the device, which is closed with the last of them. [any-thread]
class Device {
 public:
  // `name`: "auto", or a device plugin's id ("onednn", "cuda", "hip") with an optional index ("cuda:1"). "auto" takes
  // the first device that opens, GPUs before CPUs; `reasons` (or null) gets a sentence for each plugin that was passed
  // over. A named device that is not there throws its plugin's own reason; an unknown name throws TN_E_NOT_FOUND with
  // the nearest.
  static Device open(const Catalog& catalog, std::string_view name, std::vector<std::string>* reasons = nullptr);

  // What techniques must have an object for; the plugin's id unless its object names another.
  const std::string& backend() const;
  const LoadedPlugin& plugin() const;
  const tn_device_api& api() const;
  tn_device* handle() const;
  tn_device_id id() const;

  // What is free now, and capabilities; `measure`: also times copy and GEMM, once in the life of the device.
  tn_device_info info(bool measure = false) const;
  // The transformer's operators, or null where the device does not offer them.
  const tn_ops* ops() const;

 private:
  struct State;
  explicit Device(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  static Device open_one(const LoadedPlugin& plugin, std::string_view backend, uint32_t index);

  std::shared_ptr<const State> state_;
};

// Work in order on a device; waits for its work before it goes.
class Stream {
 public:
  explicit Stream(const Device& device);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  tn_stream* handle() const { return stream_; }
  void wait();

 private:
  Device device_;
  tn_stream* stream_ = nullptr;
};

}  // namespace tenon
