// From hidden states to the loss and back.
#include <algorithm>
#include <map>
#include <numeric>

#include "core/error.h"
#include "hosts/trainer/model/displaced_loss.h"
#include "hosts/trainer/model/model.h"

namespace tenon::trainer {
namespace {

// Rows of a tile of at most `most`: as few tiles as that takes, of equal size, because each reads the head's whole weight.
int64_t tile_rows(int64_t rows, int64_t most) {
  most = std::clamp<int64_t>(most, 1, rows);
  const int64_t tiles = (rows + most - 1) / most;
  return (rows + tiles - 1) / tiles;
}

}  // namespace

// Loss of final hidden states x (normed: of what the head reads) in tiles of rows, the first of which is row `begin` of the micro-batch. With dx,
// also the gradient of x, which may take x's memory, and of the head and final norm, for which `announce_head` follows.
double Model::loss_and_gradient(bool normed, const Tensor& x, const Tensor& labels, const Pass& pass, int64_t begin, double grad_scale, Tensor* dx,
                                std::vector<double>* losses) {
  const int64_t rows = x.dim(0);
  if (!dx && head_.weight && head_.weight->displaced && !head_.quantized && !head_.bias && head_.adapters.empty()) {
    const auto hidden = [&](int64_t first, int64_t end) {
      if (normed) return x.rows(first, end);
      const Tensor h = engine_.empty(Category::kActivations, engine_.compute(), {end - first, config_.width(2 * config_.layers)});
      engine_.rms_norm(x.rows(first, end), final_norm_->seen(engine_), config_.eps(2 * config_.layers), h, nullptr);
      return h;
    };
    return displaced_loss(engine_, *head_.weight, rows, hidden, labels, pass.memory.evaluation_tile_bytes(), losses);
  }
  // Evaluation keeps logits in f32; a training pass in the compute type, like the activations around it.
  const tn_dtype logit_type = dx ? engine_.compute() : kF32;
  const int64_t row_bytes = config_.vocab * element_bytes(logit_type);
  const bool whole = dx && head_.trains_weight() && head_.weight->wgrad;  // taken per sample, which tiles would cut apart
  const int64_t most = whole                                  ? rows
                       : !dx                                  ? pass.memory.evaluation_tile_bytes() / row_bytes
                       : pass.memory.loss_tile_bytes > 0      ? pass.memory.loss_tile_bytes / row_bytes
                                                              : kLossRows;
  const int64_t tile = tile_rows(rows, most);
  const auto activation = [&](int64_t n) { return engine_.empty(Category::kActivations, engine_.compute(), {n, config_.width(2 * config_.layers)}); };
  const Tensor nats = engine_.empty(Category::kActivations, kF64, {rows});
  const Tensor* dweight = dx && !normed && final_norm_->trainable ? &final_norm_->open_zeroed_gradient(engine_) : nullptr;
  for (int64_t r = 0; r < rows; r += tile) {
    const int64_t end = std::min(r + tile, rows);
    const Tensor in = x.rows(r, end);
    Tensor h = in, rstd, dh;
    if (!normed) {
      h = activation(end - r);
      if (dx) rstd = engine_.empty(Category::kActivations, kF32, {end - r});
      engine_.rms_norm(in, final_norm_->seen(engine_), config_.eps(2 * config_.layers), h, dx ? &rstd : nullptr);
    }
    if (dx) dh = activation(end - r);
    {
      const Tensor logits = engine_.empty(Category::kActivations, logit_type, {end - r, config_.vocab}), nats_rows = nats.rows(r, end);
      SavedLinear saved;
      LinearCall call = pass.call;
      call.row_begin = begin + r;
      call.flags = dx ? uint32_t{TN_CALL_TRAIN} | TN_CALL_SAVE : 0u;
      head_.forward(engine_, call, h, logits, &saved);
      engine_.cross_entropy(logits, labels.rows(r, end), dx ? grad_scale : 0, &nats_rows);
      if (dx) head_.backward(engine_, call, logits, h, &dh, 0, &saved);
    }
    if (!dx) continue;
    if (!normed) {
      h = activation(end - r);
      engine_.rms_norm_backward(dh, in, final_norm_->value, rstd, 0, h, dweight);
      dh = h;
    }
    // Tiles leave their gradient where their rows were, so that no second tensor of all rows is needed.
    if (end - r == rows) *dx = dh;
    else engine_.copy(dh, in);
  }
  if (dx && tile < rows) *dx = x;
  std::vector<double> host(rows, 0.0);
  engine_.download(nats, host.data());
  const double sum = std::accumulate(host.begin(), host.end(), 0.0);
  if (losses) losses->insert(losses->end(), host.begin(), host.end());
  return sum;
}

// Of a site: its adapters' own parameters.
static void announce_adapters(const Linear& l, const GradientReady& ready) {
  for (const Adapter* a : l.adapters)
    for (uint32_t id : a->site_params.at(l.site))
      if (a->param_sites[id] >= 0) ready(*a->parameters[id]);
}

// Gradients of the head and, unless a region has its own say in it, of the final norm are complete.
void Model::announce_head(const GradientReady& ready) {
  if (final_norm_->trainable) ready(*final_norm_);
  if (!config_.tied && head_.trains_weight()) ready(*head_.weight);
  announce_adapters(head_, ready);
}

void Model::announce_embedding(const GradientReady& ready) {
  if (embedding_->trainable) ready(*embedding_);
  announce_adapters(lookup_, ready);
}

// The stack of blocks without gradients. *normed: a region ran it, and the final norm with it.
Tensor Model::hidden(const Tensor& x, const Pass& pass, bool* normed) {
  *normed = region_.adapter != nullptr;
  if (*normed) return RegionPass(engine_, region_, pass, 0).forward(x);
  Tensor h = x;
  for (const auto& b : blocks_) h = b->forward(engine_, pass, h, nullptr);
  return h;
}

// Rows of the embedding; of a displaced one only those that the batch asks for are made, each once.
void Model::embed(const std::vector<int32_t>& ids, const Tensor& uploaded, const Tensor& x) {
  if (!embedding_->displaced) return lookup_.forward(engine_, LinearCall{}, uploaded, x, nullptr);
  if (!lookup_.adapters.empty())
    throw Error(TN_E_CONFLICT, "the embedding trains whole and is adapted, which this optimizer cannot probe at once; leave embed_tokens out of target_modules");
  std::map<int32_t, int64_t> first;
  for (size_t r = 0; r < ids.size(); ++r) {
    const int64_t row = static_cast<int64_t>(r);
    const auto [at, fresh] = first.emplace(ids[r], row);
    if (fresh)
      embedding_->displaced->read(engine_, embedding_->uid, embedding_->value, ids[r] * config_.width(0), x.rows(row, row + 1));
    else
      engine_.copy(x.rows(at->second, at->second + 1), x.rows(row, row + 1));
  }
}

double Model::evaluate(const HostBatch& batch, std::vector<double>* losses, const MemoryOptions& memory) {
  const Uploaded u = upload(batch);
  Pass pass;
  pass.memory = memory;
  pass.sequences = batch.sequences, pass.length = batch.length, pass.positions = u.positions;
  if (!batch.segments.begin.empty()) pass.segments = &batch.segments;
  Tensor x = engine_.empty(Category::kActivations, engine_.compute(), {pass.rows(), config_.width(0)});
  embed(batch.ids, u.ids, x);
  bool normed = false;
  x = hidden(x, pass, &normed);
  return loss_and_gradient(normed, x, u.labels, pass, 0, 0, nullptr, losses);
}

std::vector<Tensor> Model::block_inputs(const HostBatch& batch) {
  const Uploaded u = upload(batch);
  Pass pass;
  pass.sequences = batch.sequences, pass.length = batch.length, pass.positions = u.positions;
  std::vector<Tensor> inputs;
  Tensor x = engine_.empty(Category::kActivations, engine_.compute(), {pass.rows(), config_.width(0)});
  embed(batch.ids, u.ids, x);
  for (const auto& b : blocks_) {
    inputs.push_back(x);
    x = b->forward(engine_, pass, x, nullptr);
  }
  return inputs;
}

double Model::evaluate_from(size_t block, const Tensor& input, const HostBatch& batch) {
  const Uploaded u = upload(batch);
  Pass pass;
  pass.sequences = batch.sequences, pass.length = batch.length, pass.positions = u.positions;
  Tensor x = input;
  for (size_t l = block; l < blocks_.size(); ++l) x = blocks_[l]->forward(engine_, pass, x, nullptr);
  return loss_and_gradient(false, x, u.labels, pass, 0, 0, nullptr, nullptr);
}

}  // namespace tenon::trainer
