// The passes of this backend: how much workspace they take, and the passes themselves.
#pragma once

#include "sdk/base.h"

#if TN_GPU
#include "gpu_passes.h"
#else
#include "cpu_passes.h"
#endif
