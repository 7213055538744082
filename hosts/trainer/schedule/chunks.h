// Chunk-wise optimisation (Li et al. 2025): the model runs chunk by chunk over a micro-batch, so that activations are those of one chunk. SeCO runs
// every chunk backward and is exact; SpaCO runs a random few and weighs them, which leaves the expected gradient what it was.
#pragma once

#include <vector>

#include "hosts/trainer/model/linear.h"
#include "hosts/trainer/schedule/options.h"

namespace tenon::trainer {

struct ChunkPicks {
  std::vector<bool> picked;  // by chunk: whether it runs backward
  double weight = 1;         // of a picked chunk's loss, and of the gradient that later chunks send to its keys and values
};

// Which chunks of `rows` rows run backward in this micro-batch. Each is picked by itself, with the probability chunks_picked / chunks: draws
// without replacement would make long paths too rare. The same picks for the same seed, step and micro-batch.
ChunkPicks pick_chunks(const MemoryOptions& memory, int64_t rows, const LinearCall& call);

}  // namespace tenon::trainer
