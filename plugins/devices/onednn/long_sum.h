// C = alpha · A · B + beta · C in f32 of bf16 where one side of C is short and the sum goes over many rows of both operands: the gradients of
// low-rank factors, dYᵀ U and dUᵀ X. The wide operand is read once, where it lies; oneDNN (2.6) copies it transposed first.
#pragma once

#include "devices/onednn/gemm_problem.h"

namespace tenon::onednn {

// Whether run_long_sum() is made for it and this machine has what it takes; in_bf16: products are of bf16.
bool is_long_sum(const Problem& problem, bool in_bf16);
// Of the narrow operand, in pairs of rows.
uint64_t long_sum_bytes(const Problem& problem);
// Every number of C has one thread and one order of its sum. [any-thread], given separate workspaces.
void run_long_sum(const Problem& problem, const Pointers& pointers, void* workspace);

}  // namespace tenon::onednn
