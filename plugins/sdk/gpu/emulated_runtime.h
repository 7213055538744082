// The names of sdk/gpu/runtime.h where there is no vendor: the emulation's calls do not fail, and its streams are its device's one queue.
#pragma once

#include "sdk/base.h"

namespace tenon::sdk::gpu {

enum class Status { kSuccess, kOutOfMemory };
inline constexpr Status kSuccess = Status::kSuccess, kOutOfMemory = Status::kOutOfMemory;
inline const char* message(Status s) { return s == kSuccess ? "success" : "out of memory"; }
inline Status last_error() { return kSuccess; }

}  // namespace tenon::sdk::gpu
