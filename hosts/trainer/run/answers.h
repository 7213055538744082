// Plans and results as JSON: the same keys from the command line and from the C interface.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "hosts/trainer/run/train.h"

namespace tenon::trainer {

// {category: bytes at the peak}
nlohmann::json use_json(const MemoryUse& use);

// limit 0 = none. {"planned_bytes", "planned_offloaded_bytes", "fits", "parameters", "limit", "categories", "alternatives"}
nlohmann::json plan_json(const RunMemory& use, uint64_t limit, const std::vector<Alternative>& ways, int64_t parameters);

// {"steps", "loss", "evaluations", …}: tn_trainer_run of tenon/trainer.h names them all. `parameters`: of the whole model.
nlohmann::json result_json(const TrainResult& result, int64_t parameters);

}  // namespace tenon::trainer
