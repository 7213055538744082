// Decoding over caches that a codec holds.
#include "core/error.h"
#include "hosts/trainer/model/kv_cache.h"
#include "hosts/trainer/model/model.h"
#include "hosts/trainer/model/sequence.h"

namespace tenon::trainer {

Tensor TransformerBlock::decode_coded(Engine& e, const Pass& pass, const Tensor& x, KvCache& cache) const {
  const int64_t rows = x.dim(0), past = cache.tokens(), end = past + rows;
  SavedBlock s;
  const Tensor h = e.empty(Category::kActivations, e.compute(), {rows, width[0]});
  e.rms_norm(x, norm1->seen(e), norm_eps[0], h, nullptr);
  project_together(e, pass, h, nullptr, nullptr, s);
  const Tensor o = e.empty(Category::kActivations, e.compute(), {rows, config->heads, config->head_dim});
  {
    const auto [k, v] = cache.read(e, rows);
    e.copy(s.k, k.rows(past, end)), e.copy(s.v, v.rows(past, end));
    attention->forward(e, 1, rows, end, past, nullptr, s.q, k, v, o, nullptr);
  }
  cache.append(e, h, s.k, s.v);
  const Tensor middle = e.empty(Category::kActivations, e.compute(), {rows, width[1]});
  attention_output(e, call_at(pass, 0, false), o, x, middle, s);
  return mlp_half(e, pass, middle, nullptr);
}

void Model::cache_through(KvCodec& codec, const std::vector<std::vector<int32_t>>& sequences, const std::function<void(size_t, size_t)>& progress) {
  if (region_.adapter) throw Error(TN_E_CONFLICT, "an adapter of this mix runs the blocks itself, over caches of its own; drop --kv-cache");
  if (attention_plugin_.mixer)
    throw Error(TN_E_CONFLICT, "the attention of this mix remembers something else than keys and values; drop --kv-cache or choose another --attention");
  kv_codec_ = &codec;
  if (!codec.codec.kv) return;
  if (codec.plan.statistic != 0 && sequences.empty())
    throw Error(TN_E_ARGUMENT, "--kv-cache " + codec.codec.id + " is fitted to the inputs that text gives; give it some with --calibration FILE");
  Pass pass;
  std::vector<Tensor> x;
  if (codec.plan.statistic != 0) {
    const int64_t rows = static_cast<int64_t>(sequences.at(0).size());
    pass = sequence_pass(engine_, 0, rows);
    const Tensor ids = engine_.empty(Category::kActivations, kI32, {rows});
    for (const std::vector<int32_t>& s : sequences) {
      engine_.upload(s.data(), ids);
      engine_.synchronize();
      x.push_back(embedded(ids, pass, 0, nullptr));
    }
  }
  for (size_t l = 0; l < blocks_.size(); ++l) {
    const TransformerBlock& b = *blocks_[l];
    Tensor gram;
    if (!x.empty()) gram = engine_.zeros(Category::kWorkspace, kF32, {b.width[0], b.width[0]});
    for (Tensor& t : x) {
      const Tensor h = engine_.empty(Category::kActivations, engine_.compute(), {pass.rows(), b.width[0]});
      engine_.rms_norm(t, b.norm1->value, b.norm_eps[0], h, nullptr);
      engine_.gemm(h.transposed(), h, gram, 1, 1);
      t = b.forward(engine_, pass, t, nullptr);
    }
    codec.fit(engine_, b, gram, pass.rows() * static_cast<int64_t>(x.size()));
    if (progress) progress(l + 1, blocks_.size());
  }
}

void Model::start_coded_cache(int64_t capacity) {
  end_cache();
  kv_capacity_ = capacity;
  for (const auto& b : blocks_) {
    if (b->attention->start(engine_, 1).kind != TN_STATE_PER_TOKEN)
      throw Error(TN_E_CONFLICT, "the attention of this mix remembers something else than keys and values; drop --kv-cache or choose another --attention");
    kv_caches_.push_back(std::make_unique<KvCache>(engine_, *kv_codec_, *b, capacity));
  }
}

// What the head reads, of all rows or of the last.
Tensor Model::decoded(const std::vector<int32_t>& ids, bool all) {
  const int64_t rows = static_cast<int64_t>(ids.size());
  if (kv_caches_.empty() || cached_ + rows > kv_capacity_) throw Error(TN_E_STATE, "the sequence is longer than its decode state");
  const Pass pass = sequence_pass(engine_, cached_, rows);
  const Tensor tokens = engine_.empty(Category::kActivations, kI32, {rows});
  engine_.upload(ids.data(), tokens);
  Tensor x = embedded(tokens, pass, 0, nullptr);
  for (size_t l = 0; l < blocks_.size(); ++l) x = blocks_[l]->decode_coded(engine_, pass, x, *kv_caches_.at(l));
  cached_ += rows;
  const Tensor seen = all ? x : x.rows(rows - 1, rows);
  const Tensor h = engine_.empty(Category::kActivations, engine_.compute(), {seen.dim(0), config_.width(2 * config_.layers)});
  engine_.rms_norm(seen, final_norm_->value, config_.eps(2 * config_.layers), h, nullptr);
  return h;
}

std::vector<float> Model::feed_coded(const std::vector<int32_t>& ids) {
  const Tensor h = decoded(ids, false), logits = engine_.empty(Category::kActivations, kF32, {1, config_.vocab});
  head_.forward(engine_, LinearCall{}, h, logits, nullptr);
  std::vector<float> host(config_.vocab);
  engine_.download(logits, host.data());
  return host;
}

double Model::score(const std::vector<int32_t>& ids, const std::vector<int32_t>& labels) {
  const int64_t rows = static_cast<int64_t>(ids.size());
  const Tensor h = decoded(ids, true), to = engine_.empty(Category::kActivations, kI32, {rows});
  engine_.upload(labels.data(), to);
  return loss_and_gradient(true, h, to, Pass{}, 0, 0, nullptr, nullptr);
}

}  // namespace tenon::trainer
