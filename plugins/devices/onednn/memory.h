// Memory of the CPU device: large blocks from the kernel on huge pages where it has them, small ones from the C
// library.
#pragma once

#include "tenon/device.h"

namespace tenon::onednn {

int32_t allocate(tn_device* device, uint64_t n_bytes, void** out);
void release(tn_device* device, void* memory);
int32_t copy(tn_device* device, tn_stream* stream, void* to, const void* from, uint64_t n_bytes, uint32_t direction);
int32_t fill(tn_device* device, tn_stream* stream, void* to, uint8_t byte, uint64_t n_bytes);

}  // namespace tenon::onednn
