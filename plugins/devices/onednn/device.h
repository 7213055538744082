// What stands behind the opaque handles of this backend.
#pragma once

#include <chrono>
#include <mutex>

#include "devices/onednn/plan_cache.h"
#include "sdk/base.h"
#include "tenon/device.h"

namespace tenon::onednn {

// Speeds of this machine, measured on request.
struct Speeds {
  double gemm_flops = 0, bytes_per_second = 0;
};

}  // namespace tenon::onednn

struct tn_device {
  const tn_host* host;
  tenon::onednn::PlanCache plans;
  std::mutex speeds_mutex;
  tenon::onednn::Speeds speeds;
};

// Calls are complete when they return: a stream orders nothing.
struct tn_stream {};

struct tn_event {
  std::chrono::steady_clock::time_point at;
};
