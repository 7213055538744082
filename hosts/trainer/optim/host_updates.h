// Updates on the host for a model on a device with memory of its own (ZeRO-Offload, Ren et al. 2021): gradients leave the device as they complete,
// optimizer states and the arithmetic of the update are the host's, new values go back.
#pragma once

#include <vector>

#include "hosts/trainer/model/parameter.h"

namespace tenon::trainer {

class HostUpdates {
 public:
  // Gives every parameter a copy of its value on the host. The engines and parameters outlive this.
  HostUpdates(Engine& device, Engine& host, const std::vector<Parameter*>& params);

  Engine& host() { return host_; }
  // A complete gradient of one micro-batch: added to what the host has of the step, and freed on the device.
  void take_gradient(Parameter& p);
  // After an update. The copy may still be under way when this returns; finish() waits.
  void give_value(const Parameter& p);
  void finish() { device_.synchronize(); }
  // The values on the device were filled by somebody else.
  void values_came();

 private:
  Engine &device_, &host_;
  std::vector<Parameter*> params_;
};

}  // namespace tenon::trainer
