// Checks of the transformer's operators (org.tenon.ops/1), which join the battery of devices.
#pragma once

#include "hosts/conformance/subject.h"

namespace tenon::conformance {

void norms(Subject& subject);
void rotary(Subject& subject);
void gates(Subject& subject);
void sums(Subject& subject);
void tokens(Subject& subject);
void draws(Subject& subject);
void ops_determinism(Subject& subject);
// And of products of 8-bit integers (org.tenon.gemm8/1) and floats (org.tenon.gemm-fp8/1).
void integers(Subject& subject);
void small_floats(Subject& subject);

}  // namespace tenon::conformance
