// Decoding over what attention remembers.
#include "core/error.h"
#include "hosts/trainer/model/kv_cache.h"
#include "hosts/trainer/model/model.h"
#include "hosts/trainer/model/sequence.h"

namespace tenon::trainer {

void Model::start_cache(int64_t capacity) {
  if (kv_codec_) return start_coded_cache(capacity);
  end_cache();
  for (const auto* blocks : {&blocks_, &side_blocks_})
    for (const auto& b : *blocks) states_.push_back(b->mixer ? b->mixer->start_sequence(engine_, capacity) : b->attention->start(engine_, capacity));
}

void Model::end_cache() { states_.clear(), kv_caches_.clear(), cached_ = 0; }

std::vector<float> Model::feed(const std::vector<int32_t>& ids) {
  if (kv_codec_) return feed_coded(ids);
  const int64_t rows = static_cast<int64_t>(ids.size());
  if (cached_ + rows > states_.at(0).tokens) throw Error(TN_E_STATE, "the sequence is longer than its decode state");
  const Pass pass = sequence_pass(engine_, cached_, rows);
  const Tensor tokens = engine_.empty(Category::kActivations, kI32, {rows});
  engine_.upload(ids.data(), tokens);
  Tensor x = embedded(tokens, pass, 0, nullptr);
  Tensor h;
  if (region_.adapter) {
    RegionStack stack = region_;
    stack.states = &states_, stack.cached = cached_;
    h = RegionPass(engine_, stack, pass, TN_REGION_DECODE).forward(x).rows(rows - 1, rows);
  } else {
    for (size_t l = 0; l < blocks_.size(); ++l) x = blocks_[l]->decode(engine_, pass, x, cached_, states_[l]);
    h = engine_.empty(Category::kActivations, engine_.compute(), {1, config_.width(2 * config_.layers)});
    engine_.rms_norm(x.rows(rows - 1, rows), final_norm_->value, config_.eps(2 * config_.layers), h, nullptr);
  }
  cached_ += rows;
  const Tensor logits = engine_.empty(Category::kActivations, kF32, {1, config_.vocab});
  head_.forward(engine_, LinearCall{}, h, logits, nullptr);
  std::vector<float> host(config_.vocab);
  engine_.download(logits, host.data());
  return host;
}

}  // namespace tenon::trainer
