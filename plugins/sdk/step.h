// The last pass of an update: the weight moves along a direction and decays.
#pragma once

#include <cmath>

#include "sdk/stored.h"

namespace tenon::sdk {

struct Step {
  float step = 0;   // factor of the direction
  float decay = 0;  // lr · weight_decay
  float after = 0;  // 1 if the weight decays after the step, else 0
};

// The weight after a step along u. Step and decay meet in one small difference: multiplying by 1 − decay, rounded,
// would drift by 1e-5 in a thousand steps.
TN_FN float stepped(const Step& a, float w, float u, float decay) {
  const float s = a.step * u;
  return w - std::fma(decay, std::fma(-a.after, s, w), s);
}
TN_FN float stepped(const Step& a, float w, float u) {
  return stepped(a, w, u, a.decay);
}

// Elements [begin, begin + n) of a weight, begin a multiple of 8, along direction(i), i counted from `begin`.
template <class Direction>
void apply_step(const tn_exec* exec, const Step& a, int64_t begin, int64_t n, Stored weight, Direction direction) {
  const Stored part = weight.from(begin);
  for_each_block<kChunk * sizeof(float)>(
      exec, chunks(n),
      [=] TN_KERNEL(const Block& block) {
        const Chunk chunk(block, n);
        float* w = part.read(block, chunk, block.shared<float>());
        const int64_t first = chunk.begin;
        block.each(chunk.n, [=](int64_t i) { w[i] = stepped(a, w[i], direction(first + i)); });
        part.write(block, chunk, w);
      },
      kChunk);
}
inline void apply_step(const tn_exec* exec, const Step& a, int64_t begin, int64_t n, const float* u, Stored weight) {
  apply_step(exec, a, begin, n, weight, [=] TN_KERNEL(int64_t i) { return u[i]; });
}

}  // namespace tenon::sdk
