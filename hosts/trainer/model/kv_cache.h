// Keys and values of one layer while a sequence is decoded, held by a quantizer behind a window of exact ones (TN_SITE_KV_CACHE).
#pragma once

#include <vector>

#include "hosts/trainer/model/block.h"
#include "tenon/kv.h"

namespace tenon::trainer {

// The codec of a run's caches.
struct KvCodec {
  SiteCodec codec;
  tn_kv_plan plan{};                         // window and group are the host's where the codec has no org.tenon.kv/1
  std::vector<std::vector<Tensor>> factors;  // by block, of org.tenon.kv/1

  // Asks the codec; factors follow from fit().
  explicit KvCodec(const SiteCodec& codec);
  // Memory for a block's factors, and their contents from its projections. gram: Σ x xᵀ over `tokens` tokens; empty where none is asked for.
  void fit(Engine& engine, const TransformerBlock& block, const Tensor& gram, int64_t tokens);
};

class KvCache {
 public:
  // capacity: tokens of the longest sequence. The codec outlives the cache.
  KvCache(Engine& engine, const KvCodec& codec, const TransformerBlock& block, int64_t capacity);

  // k and v [stored tokens + rows, Hkv, d] of the whole sequence, the last `rows` of them left for the caller to fill.
  std::pair<Tensor, Tensor> read(Engine& engine, int64_t rows) const;
  // The rows that follow: h [rows, hidden] the input of the projections, k (rotated) and v [rows, Hkv, d].
  void append(Engine& engine, const Tensor& h, const Tensor& k, const Tensor& v);

  int64_t tokens() const { return stored_ * codec_->plan.group + waiting_; }

 private:
  void store(Engine& engine, const Tensor& h, const Tensor& k, const Tensor& v, int64_t groups);
  void finish(Engine& engine, const Tensor& k, const Tensor& v) const;
  void restore(Engine& engine, const Tensor& k, const Tensor& v) const;

  const KvCodec* codec_;
  const TransformerBlock* block_;
  int64_t groups_;                  // of the store
  int64_t stored_ = 0;              // groups
  int64_t waiting_ = 0;             // exact tokens
  Tensor h_, k_, v_;                // of the exact tokens, [window + group, …]
  std::vector<Tensor> store_;       // of org.tenon.kv/1
  std::vector<std::vector<Tensor>> coded_[2];  // k and v by group, of other codecs
};

}  // namespace tenon::trainer
