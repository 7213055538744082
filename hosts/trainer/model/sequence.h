// The pass of one sequence.
#pragma once

#include <numeric>
#include <vector>

#include "hosts/trainer/model/block.h"

namespace tenon::trainer {

// Of `rows` tokens at positions from `begin` on, which are on the device when this returns.
inline Pass sequence_pass(Engine& engine, int64_t begin, int64_t rows) {
  std::vector<int32_t> positions(static_cast<size_t>(rows));
  std::iota(positions.begin(), positions.end(), static_cast<int32_t>(begin));
  Pass pass;
  pass.sequences = 1, pass.length = rows;
  pass.positions = engine.empty(Category::kActivations, kI32, {rows});
  engine.upload(positions.data(), pass.positions);
  engine.synchronize();  // `positions` ends here
  return pass;
}

}  // namespace tenon::trainer
