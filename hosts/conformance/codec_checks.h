// What the checks of quantizers share, and those of their extensions.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "hosts/conformance/subject.h"

namespace tenon::conformance {

// Every setting that encodes a target of `shape`, with its name. One that only reads, or refuses the shape, is passed
// over; none at all: NotApplicable.
std::vector<std::pair<std::string, Spec>> codec_settings(Subject& subject, const std::vector<int64_t>& shape);

void check_linears(Subject& subject);        // org.tenon.linears/1
void check_segments(Subject& subject);       // org.tenon.segments/1
void check_trained_grids(Subject& subject);  // org.tenon.trainable/1

}  // namespace tenon::conformance
