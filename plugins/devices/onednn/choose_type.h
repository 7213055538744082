// The type in which this machine multiplies bf16 operands.
#pragma once

#include <cstdint>

namespace tenon::onednn {

// Whether bf16 operands are multiplied as bf16; else they are widened to f32. Decided once per process, by these rules:
//
// 1. TENON_GEMM=f32 or TENON_GEMM=bf16 in the environment decides (for tests and comparisons).
// 2. Without instructions for bf16 (AVX512-BF16, AMX) the answer is f32: oneDNN emulates there, four to five times
// slower than f32.
// 3. With them it is bf16, unless a short measurement finds it more than twice as slow as f32, which no healthy machine
// shows.
//
// A plain race would be the obvious rule, and wrong: a noisy moment could flip the choice between two processes, and a
// resumed run would no longer equal the uninterrupted one bit for bit. The measurement only catches the pathological
// case, where it is far from the threshold.
bool bf16_is_fast();

// FLOP/s of an m × n × k product of dense operands with an f32 result: the best of several within about `seconds`.
double measure_gemm(bool bf16, int64_t m, int64_t n, int64_t k, double seconds);

}  // namespace tenon::onednn
