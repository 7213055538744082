// The kernels on matrix units for f16, over tiles with lists.
#include "sdk/attention/flash/gpu/tiled_launch.h"

template struct tenon::sdk::flash::gpu::Tiled<tenon::sdk::f16, tenon::sdk::flash::gpu::ListPlan>;
