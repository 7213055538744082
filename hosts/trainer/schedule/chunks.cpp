#include "hosts/trainer/schedule/chunks.h"

#include <algorithm>
#include <cmath>

#include "hosts/trainer/model/model.h"
#include "hosts/trainer/random.h"

namespace tenon::trainer {

constexpr uint64_t kPickStream = 0x535041434f;  // random stream of SpaCO's picks

ChunkPicks pick_chunks(const MemoryOptions& memory, int64_t rows, const LinearCall& call) {
  const int64_t n = (rows + memory.chunk_rows - 1) / memory.chunk_rows;
  ChunkPicks p;
  p.picked.assign(static_cast<size_t>(n), true);
  if (memory.chunks_picked == 0 || memory.chunks_picked >= n) return p;
  const double share = static_cast<double>(memory.chunks_picked) / static_cast<double>(n);
  p.weight = memory.spaco_clip > 0 ? std::min(1 / share, memory.spaco_clip) : 1 / share;
  uint64_t key = call.seed ^ kPickStream;
  for (const int64_t part : {call.step, call.micro_batch}) key = split_mix(key + static_cast<uint64_t>(part + 1) * kSplitMixStep);
  for (int64_t i = 0; i < n; ++i)
    p.picked[static_cast<size_t>(i)] = static_cast<double>(split_mix(key + static_cast<uint64_t>(i + 1) * kSplitMixStep) >> 11) * 0x1p-53 < share;
  return p;
}

double Model::train_chunks(const Uploaded& u, Pass pass, double grad_scale, const ChunkPicks& picks, const GradientReady& announce) {
  const size_t lowest = lowest_trained(), layers = blocks_.size();
  const int64_t rows = pass.rows(), chunk = pass.memory.chunk_rows, n = static_cast<int64_t>(picks.picked.size());
  const auto begin_of = [&](int64_t i) { return i * chunk; };
  const auto end_of = [&](int64_t i) { return std::min((i + 1) * chunk, rows); };
  const auto forward = [&](int64_t i, bool keys_there, const std::vector<Keys>& keys, std::vector<SavedBlock>* saved, SavedLinear* looked_up) {
    Tensor x = embedded(u.ids.rows(begin_of(i), end_of(i)), pass, begin_of(i), looked_up);
    for (size_t l = 0; l < layers; ++l) {
      const Tensor y = engine_.empty(Category::kActivations, engine_.compute(), {x.dim(0), blocks_[l]->width[2]});
      blocks_[l]->forward_rows(engine_, pass, begin_of(i), x, keys[l], keys_there, y, saved && l >= lowest ? &(*saved)[l] : nullptr);
      x = y;
    }
    return x;
  };
  std::vector<Keys> keys;
  for (size_t l = 0; l < layers; ++l) keys.push_back(blocks_[l]->keys(engine_, rows, l >= lowest));

  // Forward, for the keys and values of every chunk; the last one's are nobody else's. Chunks that will not run backward leave their loss.
  double nats = 0;
  for (int64_t i = 0; i < n; ++i) {
    const bool picked = picks.picked[static_cast<size_t>(i)];
    if (picked && i + 1 == n) break;
    const Tensor x = forward(i, false, keys, nullptr, nullptr);
    if (!picked) nats += loss_and_gradient(false, x, u.labels.rows(begin_of(i), end_of(i)), pass, begin_of(i), 0, nullptr, nullptr);
  }

  for (int64_t i = n; i-- > 0;) {
    if (!picks.picked[static_cast<size_t>(i)]) continue;
    const int64_t begin = begin_of(i), end = end_of(i);
    pass.recompute = i + 1 < n;
    std::vector<SavedBlock> saved(layers);
    SavedLinear looked_up;
    Tensor x = forward(i, pass.recompute, keys, &saved, &looked_up), dx;
    nats += loss_and_gradient(false, x, u.labels.rows(begin, end), pass, begin, grad_scale * picks.weight, &dx, nullptr);
    if (!std::isfinite(nats)) return nats;
    x = Tensor();
    for (size_t l = layers; l-- > lowest;) {
      if (picks.weight != 1)
        for (const Tensor& from_later : {keys[l].dk.rows(begin, end), keys[l].dv.rows(begin, end)}) engine_.axpby(picks.weight, from_later, 0, from_later);
      dx = blocks_[l]->backward_rows(engine_, pass, begin, saved[l], keys[l], dx, l > lowest || lookup_.trains());
    }
    embedding_backward(u.ids.rows(begin, end), pass, begin, dx, looked_up);
  }
  const auto tell = [&](const GradientReady& ready) {
    announce_head(ready);
    for (size_t l = layers; l-- > lowest;) blocks_[l]->announce(ready);
  };
  // Where chance picked no chunk the gradient is zero, and optimizers see that.
  if (std::find(picks.picked.begin(), picks.picked.end(), true) == picks.picked.end()) {
    const GradientReady nothing = [&](Parameter& p) { p.open_zeroed_gradient(engine_); };
    tell(nothing), announce_embedding(nothing);
  }
  tell(announce);
  return nats;
}

}  // namespace tenon::trainer
