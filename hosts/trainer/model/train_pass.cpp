// Forward and backward of one micro-batch.
#include <algorithm>
#include <cmath>

#include "hosts/trainer/model/model.h"
#include "hosts/trainer/schedule/chunks.h"
#include "hosts/trainer/schedule/saved_blocks.h"

namespace tenon::trainer {

Model::Uploaded Model::upload(const HostBatch& batch) {
  const int64_t rows = batch.sequences * batch.length;
  Uploaded u{engine_.empty(Category::kActivations, kI32, {rows}), engine_.empty(Category::kActivations, kI32, {rows}),
             engine_.empty(Category::kActivations, kI32, {rows})};
  engine_.upload(batch.ids.data(), u.ids);
  engine_.upload(batch.labels.data(), u.labels);
  engine_.upload(batch.positions.data(), u.positions);
  return u;
}

double Model::train(const HostBatch& batch, const LinearCall& call, const MemoryOptions& memory, double grad_scale, bool last,
                    const GradientReady& ready) {
  const Uploaded u = upload(batch);
  Pass pass;
  pass.sequences = batch.sequences, pass.length = batch.length, pass.positions = u.positions;
  pass.train = true, pass.call = call, pass.memory = memory;
  // A sample is a sequence, or a document where attention keeps documents apart.
  std::vector<int64_t> samples;
  if (batch.segments.begin.empty())
    for (int64_t s = 0; s < batch.sequences; ++s) samples.push_back(s * batch.length);
  else
    samples = batch.segments.begin;
  samples.push_back(pass.rows());
  pass.call.sample_begin = &samples, pass.call.grad_scale = grad_scale;
  if (!batch.segments.begin.empty()) pass.segments = &batch.segments;
  const GradientReady announce = [&](Parameter& p) {
    if (last) ready(p);
  };

  ChunkPicks picks;
  if (memory.chunk_rows > 0) picks = pick_chunks(memory, pass.rows(), call);
  if (engine_.dry()) picks.picked.assign(picks.picked.size(), true);  // what any step may need
  const double nats = region_.adapter ? train_region(u, pass, grad_scale, announce)
                      : memory.chunk_rows > 0 ? train_chunks(u, pass, grad_scale, picks, announce)
                                              : train_blocks(u, pass, grad_scale, announce);
  if (!std::isfinite(nats)) return nats;  // no gradient of such a loss is of use; the caller skips the step
  announce_embedding(announce);
  announce_shared(announce);
  return nats;
}

Tensor Model::embedded(const Tensor& ids, const Pass& pass, int64_t begin, SavedLinear* saved) {
  const Tensor x = engine_.empty(Category::kActivations, engine_.compute(), {ids.dim(0), lookup_.n});
  LinearCall call = pass.call;
  call.row_begin = begin, call.flags = saved ? uint32_t{TN_CALL_TRAIN} | TN_CALL_SAVE : pass.train ? uint32_t{TN_CALL_TRAIN} : 0u;
  lookup_.forward(engine_, call, ids, x, saved);
  return x;
}

void Model::embedding_backward(const Tensor& ids, const Pass& pass, int64_t begin, const Tensor& dx, SavedLinear& saved) {
  if (!lookup_.trains()) return;
  LinearCall call = pass.call;
  call.row_begin = begin, call.flags = TN_CALL_TRAIN;
  lookup_.backward(engine_, call, dx, ids, nullptr, 0, &saved);
}

double Model::train_region(const Uploaded& u, const Pass& pass, double grad_scale, const GradientReady& announce) {
  RegionPass region(engine_, region_, pass, TN_REGION_SAVE);
  SavedLinear looked_up;
  const Tensor h = region.forward(embedded(u.ids, pass, 0, &looked_up));
  Tensor dh;
  const double nats = loss_and_gradient(true, h, u.labels, pass, 0, grad_scale, &dh, nullptr);
  if (!std::isfinite(nats)) return nats;
  announce_head(announce);
  const Tensor dx = region.backward(dh, lookup_.trains(), announce);
  if (final_norm_->trainable) announce(*final_norm_);
  embedding_backward(u.ids, pass, 0, dx, looked_up);
  return nats;
}

// Below the lowest block that trains there is no gradient to compute, so nothing is kept for one.
size_t Model::lowest_trained() const {
  size_t lowest = 0;
  if (!lookup_.trains())
    while (lowest < blocks_.size() && !blocks_[lowest]->trains()) ++lowest;
  return lowest;
}

double Model::train_blocks(const Uploaded& u, const Pass& pass, double grad_scale, const GradientReady& announce) {
  const size_t lowest = lowest_trained(), every = static_cast<size_t>(std::max<int64_t>(pass.memory.every, 1));
  SavedBlocks saved(blocks_.size(), stage_, pass.memory.offload_keep_last);
  SavedLinear looked_up;
  Tensor x = embedded(u.ids, pass, 0, &looked_up);
  for (size_t l = 0; l < blocks_.size(); ++l) {
    const bool kept = l >= lowest && (l - lowest) % every == 0;
    if (kept && every > 1) saved.at(l).x = x;
    x = blocks_[l]->forward(engine_, pass, x, kept && every == 1 ? &saved.at(l) : nullptr);
    if (kept) saved.stow(l, pass);
  }
  Tensor dx;
  const double nats = loss_and_gradient(false, x, u.labels, pass, 0, grad_scale, &dx, nullptr);
  if (!std::isfinite(nats)) return nats;
  announce_head(announce);
  x = Tensor();
  // Groups of blocks of which only the first one's input was kept, last group first.
  for (size_t end = blocks_.size(); end > lowest;) {
    const size_t first = lowest + (end - 1 - lowest) / every * every;
    saved.fetch(first, first > lowest ? first - every : first);
    if (every > 1) run_again(pass, first, end, saved);
    for (size_t l = end; l-- > first;) dx = blocks_[l]->backward(engine_, pass, saved.at(l), dx, l > lowest || lookup_.trains(), announce);
    end = first;
  }
  embedding_backward(u.ids, pass, 0, dx, looked_up);
  return nats;
}

// Blocks [first, end) forward once more, from the input that was kept of the first; the last one runs again in its own backward.
void Model::run_again(Pass pass, size_t first, size_t end, SavedBlocks& saved) {
  pass.recompute = true;
  Tensor x = saved.at(first).x;
  for (size_t l = first; l + 1 < end; ++l) x = blocks_[l]->forward(engine_, pass, x, &saved.at(l));
  saved.at(end - 1).x = x;
}

}  // namespace tenon::trainer
