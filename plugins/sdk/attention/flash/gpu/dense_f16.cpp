// The kernels on matrix units for f16, where the mask alone says what a query sees.
#include "sdk/attention/flash/gpu/tiled_launch.h"

template struct tenon::sdk::flash::gpu::Tiled<tenon::sdk::f16, tenon::sdk::flash::gpu::DensePlan>;
