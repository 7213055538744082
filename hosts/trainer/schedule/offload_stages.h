// The two stages of offload.h.
#pragma once

#include "hosts/trainer/schedule/offload.h"

namespace tenon::trainer {

std::unique_ptr<ActivationStage> host_stage(Engine& engine);
std::unique_ptr<ActivationStage> file_stage(Engine& engine, const std::string& folder);

}  // namespace tenon::trainer
