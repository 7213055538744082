// Batches of the text side as the model takes them, and the loss of a model on a dataset.
#pragma once

#include <functional>

#include "hosts/trainer/model/model.h"
#include "hosts/trainer/text/data/dataset.h"

namespace tenon::trainer {

// isolate: attention and positions start anew at each document of a packed window.
HostBatch to_host_batch(const Batch& batch, bool isolate);

struct Evaluation {
  double loss = 0;  // mean nats per predicted token
  double perplexity = 0;
  int64_t tokens = 0;  // predicted
};

// What of a run's memory options evaluation takes over: blocks in slices. Its tiles of logits are its own.
MemoryOptions evaluation_options(const MemoryOptions& memory);

// Over every window, in order. progress(done, of) is called after each pass (may be empty). Throws Error when nothing is predicted.
Evaluation evaluate(Model& model, const Dataset& data, bool isolate, const std::function<void(size_t, size_t)>& progress = {},
                    const MemoryOptions& memory = {});

// The same through a key-value cache that a codec holds: each window is read in steps of so many tokens, which see those before them as the
// codec gives them back.
Evaluation evaluate_cached(Model& model, const Dataset& data, int64_t step, const std::function<void(size_t, size_t)>& progress = {});

}  // namespace tenon::trainer
