// Weights that come in segments (org.tenon.segments/1): their order over a whole model, and what of it fits a number of bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "hosts/trainer/model/model.h"

namespace tenon::trainer {

// Places in Model::linears(), level by level; the first segment of every weight comes before all of them.
using SegmentOrder = std::vector<int32_t>;

// The order without a measurement: that of the model in every level.
SegmentOrder natural_order(const std::vector<SegmentSizes>& sizes);

// Measures the order on the text, as the quantizer plans it; the model holds all segments and no adapter. Without text the natural order.
SegmentOrder measure_order(Engine& engine, Model& model, const tn_segment_plan& plan, const std::vector<std::vector<int32_t>>& text,
                           const std::function<void(size_t, size_t)>& progress);

// How many segments of each weight fit the budget, from the front of the order. Throws Error where not even one of each does.
std::vector<int64_t> fitting_segments(const std::vector<SegmentSizes>& sizes, const SegmentOrder& order, uint64_t budget);

// Drops what does not fit from memory.
void fit_segments(Engine& engine, Model& model, const SegmentOrder& order, uint64_t budget);

// Bytes of a model's quantized weights as they are now.
uint64_t quantized_bytes(Model& model);

}  // namespace tenon::trainer
