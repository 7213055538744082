#include "hosts/trainer/run/segments.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace tenon::trainer {
namespace {

// The text in windows of the plan's length, as one batch.
HostBatch score_batch(const tn_segment_plan& plan, const std::vector<std::vector<int32_t>>& text) {
  std::vector<int32_t> all;
  for (const auto& s : text) all.insert(all.end(), s.begin(), s.end());
  HostBatch b;
  b.length = std::min<int64_t>(plan.length, static_cast<int64_t>(all.size()));
  if (b.length < 2) return b;
  const int64_t there = static_cast<int64_t>(all.size()) / b.length;
  b.sequences = std::clamp<int64_t>(plan.sequences, 1, there);
  for (int64_t i = 0; i < b.sequences; ++i) {
    const int32_t* from = all.data() + i * there / b.sequences * b.length;
    for (int64_t t = 0; t < b.length; ++t) {
      b.ids.push_back(from[t]), b.positions.push_back(static_cast<int32_t>(t));
      b.labels.push_back(t + 1 < b.length ? from[t + 1] : -1);
    }
  }
  return b;
}

std::vector<SegmentSizes> sizes_of(Model& model) {
  std::vector<SegmentSizes> sizes;
  for (const Linear* l : model.linears()) sizes.push_back(l->quantized ? l->quantized->segments() : SegmentSizes());
  return sizes;
}

int64_t levels(const std::vector<SegmentSizes>& sizes) {
  int64_t most = 1;
  for (const SegmentSizes& s : sizes) most = std::max(most, s.count);
  return most;
}

}  // namespace

SegmentOrder natural_order(const std::vector<SegmentSizes>& sizes) {
  SegmentOrder order;
  for (int64_t level = 2; level <= levels(sizes); ++level)
    for (size_t i = 0; i < sizes.size(); ++i)
      if (level <= sizes[i].count) order.push_back(static_cast<int32_t>(i));
  return order;
}

SegmentOrder measure_order(Engine& engine, Model& model, const tn_segment_plan& plan, const std::vector<std::vector<int32_t>>& text,
                           const std::function<void(size_t, size_t)>& progress) {
  const std::vector<SegmentSizes> sizes = sizes_of(model);
  HostBatch batch = score_batch(plan, text);
  if (engine.dry() && batch.sequences == 0) {
    batch.sequences = plan.sequences, batch.length = plan.length;
    batch.ids.assign(static_cast<size_t>(batch.sequences * batch.length), 0);
    batch.labels = batch.positions = batch.ids;
  }
  if (plan.scored_levels == 0 || batch.sequences == 0) return natural_order(sizes);
  const std::vector<Linear*> linears = model.linears();
  std::vector<int32_t> weights;  // that have segments to order
  for (size_t i = 0; i < sizes.size(); ++i)
    if (linears[i]->quantized && sizes[i].count > 1) weights.push_back(static_cast<int32_t>(i));
  const int64_t last = levels(sizes);
  const size_t steps = weights.size() * static_cast<size_t>(std::min<int64_t>(plan.scored_levels, last - 1));
  size_t done = 0;
  SegmentOrder order;
  std::vector<int32_t> ranking = weights;
  for (int64_t level = 2; level <= last; ++level) {
    if (level - 2 < static_cast<int64_t>(plan.scored_levels)) {
      for (int32_t i : weights) linears[i]->quantized->show_segments(std::min(level - 1, sizes[i].count));
      const std::vector<Tensor> inputs = model.block_inputs(batch);
      std::vector<double> loss(linears.size());
      for (int32_t i : weights) {
        if (level > sizes[i].count) continue;
        QuantizedWeight& w = *linears[i]->quantized;
        const size_t block = static_cast<size_t>(linears[i]->block);
        w.show_segments(level);
        loss[i] = model.evaluate_from(block, inputs[block], batch);
        w.show_segments(level - 1);
        if (progress) progress(++done, steps);
        if (engine.dry()) break;
      }
      std::stable_sort(ranking.begin(), ranking.end(), [&](int32_t a, int32_t b) { return loss[a] < loss[b]; });
    }
    for (int32_t i : ranking)
      if (level <= sizes[i].count) order.push_back(i);
  }
  for (int32_t i : weights) linears[i]->quantized->show_segments(0);
  return order;
}

std::vector<int64_t> fitting_segments(const std::vector<SegmentSizes>& sizes, const SegmentOrder& order, uint64_t budget) {
  std::vector<int64_t> counts(sizes.size(), 1);
  uint64_t bytes = 0;
  for (const SegmentSizes& s : sizes) bytes += s.bytes(1);
  if (bytes > budget)
    throw Error(TN_E_MEMORY, "--weight-budget " + format_bytes(budget) + " does not hold the first segment of every weight, which takes " + format_bytes(bytes) +
                                 "; give at least that, or fewer bytes a segment");
  for (int32_t i : order) {
    if (i < 0 || static_cast<size_t>(i) >= sizes.size()) throw Error(TN_E_FORMAT, "the order of segments names weight " + std::to_string(i) + " of " + std::to_string(sizes.size()) + "; the model is damaged, quantize it again");
    if (counts[i] >= sizes[i].count) continue;
    if (bytes + sizes[i].each > budget) break;  // what comes after it was not chosen for a model without it
    bytes += sizes[i].each, ++counts[i];
  }
  return counts;
}

void fit_segments(Engine& engine, Model& model, const SegmentOrder& order, uint64_t budget) {
  const std::vector<Linear*> linears = model.linears();
  const std::vector<SegmentSizes> sizes = sizes_of(model);
  const std::vector<int64_t> counts = fitting_segments(sizes, order, budget);
  // One place of the budget's size, whatever fills it: a forecast, which knows no order, needs the same.
  int64_t parts = 0;
  uint64_t all = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    all += sizes[i].bytes(sizes[i].count);
    if (linears[i]->quantized) parts += static_cast<int64_t>(linears[i]->quantized->components().size());
  }
  if (all <= budget) return;
  const Tensor arena = engine.empty(Category::kWeights, kU8, {static_cast<int64_t>(budget) + parts * QuantizedWeight::kPlaces});
  int64_t offset = 0;
  for (size_t i = 0; i < sizes.size(); ++i)
    if (linears[i]->quantized) linears[i]->quantized->keep_segments(engine, counts[i], arena, offset);
}

uint64_t quantized_bytes(Model& model) {
  uint64_t bytes = 0;
  for (const Linear* l : model.linears())
    if (l->quantized) bytes += l->quantized->segments().bytes(l->quantized->segments().count);
  return bytes;
}

}  // namespace tenon::trainer
