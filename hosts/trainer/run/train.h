// A whole training run: data, plan, steps, evaluation, checkpoints, the finished model.
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "hosts/trainer/optim/schedule.h"
#include "hosts/trainer/run/evaluate.h"
#include "hosts/trainer/run/plan.h"
#include "hosts/trainer/text/data/batch_order.h"

namespace tenon::trainer {

// What the learning rate follows from: a resumed run may be given others, in so many words.
constexpr const char* kRateFlags[] = {"lr", "lr-floor", "schedule", "warmup", "steps"};

struct TrainOptions {
  std::string output;  // folder of metrics.jsonl, checkpoints and final/
  int64_t batch = 1, steps = 0;
  double epochs = 0;  // instead of steps
  Schedule schedule;        // total is set from steps
  double warmup_share = 0;  // of the steps, in place of schedule.warmup, where it is not 0
  SessionOptions session;
  tn_dtype compute = kF32;
  Order order = Order::kShuffled;
  WindowOptions windows;
  bool isolate_documents = false;
  std::string data, evaluation_data;  // files
  std::string calibration;            // text for a quantizer that asks for it; "" = data
  double held_out = 0;                // fraction of `data` kept for evaluation
  int64_t evaluate_every = 0;         // steps; 0: only before the first and after the last
  int64_t checkpoint_every = 0;       // steps; 0: none
  int keep_checkpoints = 2;
  bool resume = false, overwrite = false;
  std::set<std::string> changed_rates;  // of kRateFlags, those that a resumed run may change
  uint64_t memory_limit = 0;
};

struct EvaluationPoint {
  int64_t step = 0;
  Evaluation value;
};

// What the caller is told while it happens. Any may be empty.
struct TrainEvents {
  std::function<void(const std::string&)> note;                            // one line for the user
  std::function<void(const MemoryUse&)> planned;                           // before anything is allocated
  std::function<void(size_t blocks, size_t of)> calibrating;               // weights being coded with text in view
  std::function<void(Session&, int64_t step)> ready;                       // before the first step; `step` already done
  std::function<void(const StepResult&, int64_t total, double tokens_per_second)> step;
  std::function<void(const EvaluationPoint&)> evaluated;
  std::function<void(Session&)> finished;                                  // before the session ends: samples …
  const std::atomic<bool>* stop = nullptr;                                 // set: end after this step with a checkpoint
};

struct TrainResult {
  RunMemory planned, measured;
  int64_t steps = 0, trainable_parameters = 0;  // steps: done in total, earlier runs included
  double tokens_per_second = 0;                 // of this run's steps, the first left out
  double seconds = 0;
  std::optional<double> last_loss;
  std::vector<EvaluationPoint> evaluations;
  bool stopped = false;
  int64_t skipped_steps = 0;
  std::string final_folder;  // empty when stopped
};

// Runs to the end, or until stopped. Throws Error for everything that a user can mend; nothing half-written remains.
TrainResult train(Runtime& runtime, const ModelSource& source, const TextModel& text, const TrainOptions& options, const TrainEvents& events);

}  // namespace tenon::trainer
