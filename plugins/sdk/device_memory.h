// What host code may do with memory of the device: copy it, in the order of the call's stream.
#pragma once

#include "sdk/base.h"
#include "tenon/device.h"

namespace tenon::sdk {

// n values from the device; waits for them and for all that the stream has to do before.
template <class T>
void copy_to_host(const tn_exec* exec, const T* from, T* to, int64_t n) {
  check(exec->api->copy(exec->device, exec->stream, to, from, static_cast<uint64_t>(n) * sizeof(T), TN_COPY_TO_HOST));
  check(exec->api->stream_wait(exec->device, exec->stream));
}
template <class T>
void copy_to_device(const tn_exec* exec, const T* from, T* to, int64_t n) {
  check(exec->api->copy(exec->device, exec->stream, to, from, static_cast<uint64_t>(n) * sizeof(T), TN_COPY_TO_DEVICE));
}
// Both on the device; they do not overlap.
inline void copy_within(const tn_exec* exec, const void* from, void* to, uint64_t bytes) {
  check(exec->api->copy(exec->device, exec->stream, to, from, bytes, TN_COPY_WITHIN));
}
inline void fill_device(const tn_exec* exec, void* to, uint8_t byte, uint64_t bytes) {
  check(exec->api->fill(exec->device, exec->stream, to, byte, bytes));
}

}  // namespace tenon::sdk
