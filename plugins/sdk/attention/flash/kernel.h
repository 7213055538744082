// The kernel that a technique derives from: DenseKernel where the mask alone says what a query sees, PatternKernel where tiles do as well.
#pragma once

#include "sdk/base.h"

#if TN_GPU
#include "sdk/attention/flash/gpu/kernel.h"
#else
#include "sdk/attention/flash/cpu_kernel.h"

namespace tenon::sdk::flash {
using DenseKernel = Kernel;
using PatternKernel = Kernel;
}  // namespace tenon::sdk::flash
#endif
