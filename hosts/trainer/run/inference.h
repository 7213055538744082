// A model for evaluation and generation: no optimizer, adapters filled from their folders.
#pragma once

#include <memory>

#include "hosts/trainer/run/calibration.h"
#include "hosts/trainer/run/runtime.h"

namespace tenon::trainer {

// Tokens of the longest sequence that any command accepts.
inline constexpr int64_t kLongestSequence = int64_t{1} << 24;

class Inference {
 public:
  Inference(Runtime& runtime, const ModelSource& source, tn_dtype dtype, int64_t longest_sequence, uint64_t memory_limit,
            const CalibrationText& calibration = {}, const std::function<void(size_t, size_t)>& calibrating = {},
            const CalibrationText& kv_calibration = {}, bool order_segments = false);
  Model& model() { return session_->model(); }
  Session& session() { return *session_; }
  Engine& engine() { return *engine_; }

 private:
  std::unique_ptr<Engine> engine_;  // outlives the adapters' parameters, which live in its memory
  std::unique_ptr<TechniqueSet> set_;
  std::unique_ptr<Session> session_;
};

}  // namespace tenon::trainer
