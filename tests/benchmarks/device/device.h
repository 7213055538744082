// The device under measurement, loaded as a host loads it, and clocks that compare fairly on a machine that others use
// too.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "sdk/testing/host.h"
#include "tenon/ops.h"

namespace tenon::benchmarks {

struct Device {
  explicit Device(const std::string& object);
  ~Device();
  Device(const Device&) = delete;

  sdk::testing::FakeHost host;
  const tn_device_api* api = nullptr;
  const tn_ops* ops = nullptr;
  tn_device* handle = nullptr;
  tn_device_info info{};
};

// Stops the program with the host's sentence.
void require(const Device& device, int32_t status);

// The median time of each candidate: they take turns, so that a noisy moment hits all of them. Runs for about `seconds`
// in all.
std::vector<double> median_seconds(const std::vector<std::function<void()>>& candidates, double seconds);

}  // namespace tenon::benchmarks
