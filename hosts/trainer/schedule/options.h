// How a pass trades memory for time: options of the run that change no number.
#pragma once

#include <cstdint>
#include <vector>

namespace tenon::trainer {

// What a block keeps from forward to backward beside its input, as a set; the rest is computed again (Chen et al. 2016; the flash cut after
// LightSeq). Any union of members is a policy.
enum class Checkpointing : uint32_t {
  kBlock = 0,     // nothing
  kQkv = 1,       // rotated q, k, v
  kFlashCut = 2,  // attention's output and its log-sum-exp: attention itself is never repeated
  kMiddle = 4,    // the sum after attention
  kMlp = 8,       // gate and up
  kNone = 15      // everything that the backward formulas need
};
constexpr Checkpointing operator|(Checkpointing a, Checkpointing b) { return static_cast<Checkpointing>(static_cast<uint32_t>(a) | static_cast<uint32_t>(b)); }
constexpr bool keeps(Checkpointing policy, Checkpointing member) { return (static_cast<uint32_t>(policy) & static_cast<uint32_t>(member)) != 0; }

// Another policy for blocks [first, last].
struct BlockPolicy {
  int64_t first = 0, last = 0;
  Checkpointing policy = Checkpointing::kNone;
};

// Where what blocks save waits for their backward pass. kAuto: host memory, or a file where the device computes in host memory.
enum class Offload { kNone, kAuto, kHost, kFile };

// Each tile reads the head's weight, which so many rows hide behind their products.
constexpr int64_t kLossRows = 512, kLossRoom = 32 << 20;

struct MemoryOptions {
  Checkpointing checkpointing = Checkpointing::kNone;
  std::vector<BlockPolicy> block_policies;  // the last that names a block counts
  int64_t every = 1;       // keep the input of every n-th block only; the blocks between are run again together
  bool tiled_mlp = false;
  int64_t loss_tile_bytes = 0;  // most that the logits of a tile take; 0: those of kLossRows in training, kLossRoom in evaluation
  int64_t stream_rows = 0;  // StreamBP: blocks run forward and backward in slices of so many rows; 0 = off
  int64_t chunk_rows = 0;   // SeCO: the model runs forward and backward in chunks of so many rows; 0 = off
  int64_t chunks_picked = 0;   // SpaCO: how many chunks of a micro-batch run backward, on average; 0 = all
  double spaco_clip = 0;       // most that a picked chunk counts for; 0 = no bound, which leaves the gradient unbiased
  Offload offload = Offload::kNone;
  int64_t offload_keep_last = 1;  // blocks at the end of which all stays: theirs is the backward that begins at once

  int64_t evaluation_tile_bytes() const { return loss_tile_bytes > 0 ? loss_tile_bytes : kLossRoom; }
  Checkpointing policy_of(int64_t block) const {
    Checkpointing policy = checkpointing;
    for (const BlockPolicy& p : block_policies)
      if (block >= p.first && block <= p.last) policy = p.policy;
    return policy;
  }
};

}  // namespace tenon::trainer
