// What the device says about itself.
#pragma once

#include "tenon/device.h"

namespace tenon::onednn {

int32_t info(tn_device* device, uint32_t measure, tn_device_info* out);

}  // namespace tenon::onednn
