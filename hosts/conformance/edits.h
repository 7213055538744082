// The check of quantizers that edit models.
#pragma once

#include "hosts/conformance/subject.h"

namespace tenon::conformance {

void edits(Subject& subject);

}  // namespace tenon::conformance
