// One row of activations times a weight whose rows lie side by side along the sum, as a decoded token meets every linear: C[1, n] = alpha · A[1, k]
// · Wᵀ + beta · C + bias. Bound by reading W once, in its own type, where the library would pack it first.
#pragma once

#include "devices/onednn/gemm_problem.h"

namespace tenon::onednn {

// Whether run_thin() is made for it.
bool is_thin(const Problem& problem);
// No workspace. Sums are f32, in an order that depends on k alone. [any-thread]
void run_thin(const Problem& problem, const Pointers& pointers);

}  // namespace tenon::onednn
