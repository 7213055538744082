// Checkpoints: everything that a killed run needs to go on as if nothing had happened, bit for bit.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "hosts/trainer/run/session.h"

namespace tenon::trainer {

// What a checkpoint records besides tensors: the run's identity. A resumed run must agree with it in every key but those that the user changes.
struct RunIdentity {
  std::map<std::string, std::string> settings;  // "optimizer" → canonical spec, "seed", "dtype", "batch_size", …
  std::map<std::string, std::string> plugins;   // id → version
  std::set<std::string> changeable = {};        // settings that may differ from the checkpoint's, which is told; not recorded
};

// Writes OUTPUT/checkpoint-STEP whole or not at all, then removes checkpoints older than the newest `keep`.
void save_checkpoint(const std::string& output, int64_t step, Session& session, const RunIdentity& identity, int keep);

// The newest complete checkpoint in OUTPUT, or nothing. Remains of killed writers are removed.
std::optional<std::string> newest_checkpoint(const std::string& output);

// Restores weights, states and counters; answers the step after which it was written. A checkpoint of other settings is refused by
// naming the first that differs; a setting that may differ, and another plugin version, are told to `warnings`.
int64_t load_checkpoint(const std::string& folder, Session& session, const RunIdentity& identity, std::vector<std::string>& warnings);

}  // namespace tenon::trainer
