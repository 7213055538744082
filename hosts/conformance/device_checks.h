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

}  // namespace tenon::conformance
