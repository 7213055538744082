// Decoding over a key-value cache.
#include <numeric>

#include "core/error.h"
#include "hosts/trainer/model/model.h"

namespace tenon::trainer {

void Model::start_cache(int64_t capacity) {
  cached_ = 0;
  cache_k_.clear(), cache_v_.clear();
  const auto add_cache = [&](const ModelConfig& c) {
    for (std::vector<Tensor>* cache : {&cache_k_, &cache_v_})
      cache->push_back(engine_.empty(Category::kActivations, engine_.compute(), {capacity, c.kv_heads, c.head_dim}));
  };
  for (int64_t l = 0; l < config_.layers; ++l) add_cache(config_);
  for (const ModelConfig& c : side_configs_) add_cache(c);
}

void Model::end_cache() { cache_k_.clear(), cache_v_.clear(), cached_ = 0; }

std::vector<float> Model::feed(const std::vector<int32_t>& ids) {
  const int64_t rows = static_cast<int64_t>(ids.size());
  if (cached_ + rows > cache_k_.at(0).dim(0)) throw Error(TN_E_STATE, "the sequence is longer than its key-value cache");
  std::vector<int32_t> positions(rows);
  std::iota(positions.begin(), positions.end(), static_cast<int32_t>(cached_));
  const Tensor tokens = engine_.empty(Category::kActivations, kI32, {rows});
  Pass pass;
  pass.sequences = 1, pass.length = rows;
  pass.positions = engine_.empty(Category::kActivations, kI32, {rows});
  engine_.upload(ids.data(), tokens), engine_.upload(positions.data(), pass.positions);
  Tensor x = engine_.empty(Category::kActivations, engine_.compute(), {rows, config_.hidden});
  engine_.embedding(embedding_->value, tokens, x);
  Tensor h;
  if (region_.adapter) {
    RegionStack stack = region_;
    stack.cache_k = &cache_k_, stack.cache_v = &cache_v_, stack.cached = cached_;
    h = RegionPass(engine_, stack, pass, TN_REGION_DECODE).forward(x).rows(rows - 1, rows);
  } else {
    for (size_t l = 0; l < blocks_.size(); ++l) x = blocks_[l]->decode(engine_, pass, x, cached_, cache_k_[l], cache_v_[l]);
    h = engine_.empty(Category::kActivations, engine_.compute(), {1, config_.hidden});
    engine_.rms_norm(x.rows(rows - 1, rows), final_norm_->value, config_.norm_eps, h, nullptr);
  }
  cached_ += rows;
  const Tensor logits = engine_.empty(Category::kActivations, kF32, {1, config_.vocab});
  head_.forward(engine_, LinearCall{}, h, logits, nullptr);
  std::vector<float> host(config_.vocab);
  engine_.download(logits, host.data());
  return host;
}

}  // namespace tenon::trainer
