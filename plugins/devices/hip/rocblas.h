// rocBLAS, where it can be opened.
#pragma once

#include "devices/gpu/product.h"

namespace tenon::gpu {

// Null where there is none; `why` then says so in a sentence.
std::unique_ptr<Blas> open_rocblas(std::string& why);

}  // namespace tenon::gpu
