// Saved activations outside of the device's memory: in page-locked host memory, copied beside the computation, or in a file.
#pragma once

#include <string>

#include "hosts/trainer/schedule/activations.h"
#include "hosts/trainer/schedule/options.h"

namespace tenon::trainer {

// The stage that an offload asks for; null for kNone. folder: where a file is kept, which has no name and goes with the process. Throws Error where
// the device has nothing to gain from it, or the folder cannot hold the file. On a dry engine nothing is opened.
std::unique_ptr<ActivationStage> offload_stage(Engine& engine, Offload offload, const std::string& folder);

}  // namespace tenon::trainer
