#include "hosts/trainer/model/kv_cache.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "hosts/trainer/engine/sinks.h"
#include "hosts/trainer/engine/views.h"

namespace tenon::trainer {
namespace {

constexpr int64_t kWindow = 32, kGroup = 32;  // tokens, of codecs that have no wish of their own

tn_kv_layer layer_of(Engine& engine, const TransformerBlock& b) {
  const ModelConfig& c = *b.config;
  return {sizeof(tn_kv_layer), static_cast<int32_t>(b.index), b.width[0], c.kv_width(), c.kv_width(), engine.compute(), 0};
}

tn_target target_of(Engine& engine, const TransformerBlock& b, int which, int64_t group) {
  return {sizeof(tn_target), TN_SITE_KV_CACHE, static_cast<uint32_t>(which == 0 ? TN_ROLE_K : TN_ROLE_V), 0, static_cast<int32_t>(b.index), 2, engine.compute(), 0,
          {group, b.config->kv_width(), 0, 0}, which == 0 ? "cached keys" : "cached values"};
}

}  // namespace

KvCodec::KvCodec(const SiteCodec& site) : codec(site) {
  plan = {sizeof(tn_kv_plan), 0, 0, 0, kWindow, kGroup};
  if (codec.kv) check(codec.kv->plan(codec.self, &plan), "planning a key-value cache");
  if (plan.group < 1 || plan.window < 0) throw Error(TN_E_STATE, codec.id + " plans a key-value cache with groups of " + std::to_string(plan.group) + " tokens");
  if (plan.statistic != 0 && plan.statistic != TN_STATISTIC_GRAM)
    throw Error(TN_E_UNSUPPORTED, codec.id + " asks for the statistic " + std::to_string(plan.statistic) + ", which this version does not gather; update tenon");
}

void KvCodec::fit(Engine& engine, const TransformerBlock& block, const Tensor& gram, int64_t tokens) {
  if (!codec.kv) return;
  for (int i : {TransformerBlock::kK, TransformerBlock::kV})
    if (!block.linears[i].adapters.empty())
      throw Error(TN_E_CONFLICT, codec.id + " stands for the projections of the model as it is, and an adapter changes " + block.linears[i].path + "; merge it first with tenon merge");
  const tn_kv_layer layer = layer_of(engine, block);
  std::vector<Tensor>& made = factors.emplace_back();
  const ComponentTensors declared(engine, Category::kWeights, made);
  check(codec.kv->factors(codec.self, &layer, declared.sink()), "planning the factors of a key-value cache");
  const auto dense = [&](const Linear& l) {
    const Tensor w = engine.empty(Category::kWorkspace, kF32, {l.m, l.n});
    l.read_rows(engine, 0, l.m, w);
    return w;
  };
  const Tensor w_k = dense(block.linears[TransformerBlock::kK]), w_v = dense(block.linears[TransformerBlock::kV]);
  tn_estimate e{sizeof(tn_estimate)};
  check(codec.kv->estimate(codec.self, engine.api(), engine.device(), &layer, TN_KV_FIT, 1, &e), "planning to fit a key-value cache");
  const Views views(made);
  const Tensor::Ref statistic = gram ? gram.ref() : Tensor::Ref{};
  engine.with_workspace(e, "fit key-value cache", [&](const tn_exec* x) {
    return codec.kv->fit(codec.self, x, &layer, w_k.ref(), w_v.ref(), gram ? &statistic.t : nullptr, tokens, views.data());
  });
}

KvCache::KvCache(Engine& engine, const KvCodec& codec, const TransformerBlock& block, int64_t capacity)
    : codec_(&codec), block_(&block), groups_(std::max<int64_t>(0, capacity - codec.plan.window) / codec.plan.group) {
  const ModelConfig& c = *block.config;
  const int64_t exact = codec.plan.window + codec.plan.group;
  k_ = engine.empty(Category::kActivations, engine.compute(), {exact, c.kv_heads, c.head_dim});
  v_ = engine.empty(Category::kActivations, engine.compute(), {exact, c.kv_heads, c.head_dim});
  if (!codec.codec.kv) return;
  h_ = engine.empty(Category::kActivations, engine.compute(), {exact, block.width[0]});
  const tn_kv_layer layer = layer_of(engine, block);
  const ComponentTensors declared(engine, Category::kActivations, store_);
  check(codec.codec.kv->store(codec.codec.self, &layer, groups_, declared.sink()), "planning a key-value cache");
}

// `groups` groups of exact rows go into the store.
void KvCache::store(Engine& engine, const Tensor& h, const Tensor& k, const Tensor& v, int64_t groups) {
  const SiteCodec& codec = codec_->codec;
  const int64_t group = codec_->plan.group;
  tn_estimate e{sizeof(tn_estimate)};
  if (codec.kv) {
    const tn_kv_layer layer = layer_of(engine, *block_);
    check(codec.kv->estimate(codec.self, engine.api(), engine.device(), &layer, TN_KV_WRITE, groups, &e), "planning to write a key-value cache");
    const Views factors(codec_->factors.at(static_cast<size_t>(block_->index))), store(store_);
    engine.with_workspace(e, "write key-value cache", [&](const tn_exec* x) {
      return codec.kv->write(codec.self, x, &layer, h.rows(0, groups * group).ref(), factors.data(), groups_, stored_, groups, store.data());
    });
  } else {
    for (int which = 0; which < 2; ++which) {
      const tn_target target = target_of(engine, *block_, which, group);
      const Tensor& from = which == 0 ? k : v;
      for (int64_t g = 0; g < groups; ++g) {
        std::vector<Tensor>& parts = coded_[which].emplace_back();
        const ComponentTensors declared(engine, Category::kActivations, parts);
        check(codec.api->plan(codec.self, &target, declared.sink()), "planning a key-value cache");
        check(codec.api->estimate(codec.self, engine.api(), engine.device(), &target, TN_QUANTIZER_ENCODE, group * target.shape[1], &e),
              "planning to write a key-value cache");
        const Views views(parts);
        const tn_rng rng{0, static_cast<uint32_t>(block_->index * 2 + which), static_cast<uint32_t>(stored_ + g)};
        const Tensor rows = from.rows(g * group, (g + 1) * group).reshaped({group, target.shape[1]});
        engine.with_workspace(e, "write key-value cache",
                              [&](const tn_exec* x) { return codec.api->encode(codec.self, x, &target, rows.ref(), views.data(), &rng); });
      }
    }
  }
  stored_ += groups;
}

void KvCache::append(Engine& engine, const Tensor& h, const Tensor& k, const Tensor& v) {
  const int64_t rows = k.dim(0), window = codec_->plan.window, group = codec_->plan.group;
  const auto part = [](const Tensor& t, int64_t begin, int64_t end) { return t ? t.rows(begin, end) : t; };
  for (int64_t at = 0; at < rows;) {
    if (waiting_ == 0 && rows - at >= window + group) {
      const int64_t n = (rows - at - window) / group;
      store(engine, part(h, at, rows), part(k, at, rows), part(v, at, rows), n);
      at += n * group;
      continue;
    }
    const int64_t n = std::min(rows - at, window + group - waiting_);
    const auto keep = [&](const Tensor& from, const Tensor& to) {
      if (to) engine.copy(from.rows(at, at + n), to.rows(waiting_, waiting_ + n));
    };
    keep(h, h_), keep(k, k_), keep(v, v_);
    waiting_ += n, at += n;
    if (waiting_ < window + group) continue;
    store(engine, h_, k_, v_, 1);
    waiting_ = window;
    for (Tensor* t : {&h_, &k_, &v_}) {
      if (!*t || window == 0) continue;
      const Tensor moved = engine.empty(Category::kActivations, t->dtype(), t->shape(), t->ndim());
      engine.copy(t->rows(group, group + window), moved.rows(0, window));
      *t = moved;
    }
  }
}

// Bias, norm of heads and rotation of what stands for the projections' outputs.
void KvCache::finish(Engine& engine, const Tensor& k, const Tensor& v) const {
  const ModelConfig& c = *block_->config;
  const int64_t rows = k.dim(0);
  const auto add = [&](int which, const Tensor& t) {
    if (const Parameter* bias = block_->linears[which].bias) engine.bias_add(bias->value, t.reshaped({rows, c.kv_width()}));
  };
  add(TransformerBlock::kK, k), add(TransformerBlock::kV, v);
  if (block_->k_norm) {
    const Tensor raw = engine.empty(Category::kWorkspace, engine.compute(), {rows * c.kv_heads, c.head_dim});
    engine.copy(k, raw);
    engine.rms_norm(raw, block_->k_norm->value, c.norm_eps, k.reshaped({rows * c.kv_heads, c.head_dim}), nullptr);
  }
  const Tensor positions = engine.empty(Category::kWorkspace, kI32, {rows});
  std::vector<int32_t> own(static_cast<size_t>(rows));
  std::iota(own.begin(), own.end(), 0);
  engine.upload(own.data(), positions);
  engine.synchronize();
  engine.rope(k, positions, *block_->inv_freq, block_->rope_scale, 1);
}

void KvCache::restore(Engine& engine, const Tensor& k, const Tensor& v) const {
  const SiteCodec& codec = codec_->codec;
  const int64_t group = codec_->plan.group, width = block_->config->kv_width();
  tn_estimate e{sizeof(tn_estimate)};
  if (codec.kv) {
    const tn_kv_layer layer = layer_of(engine, *block_);
    check(codec.kv->estimate(codec.self, engine.api(), engine.device(), &layer, TN_KV_READ, stored_, &e), "planning to read a key-value cache");
    const Views factors(codec_->factors.at(static_cast<size_t>(block_->index))), store(store_);
    const Tensor flat_k = k.reshaped({stored_ * group, width}), flat_v = v.reshaped({stored_ * group, width});
    engine.with_workspace(e, "read key-value cache", [&](const tn_exec* x) {
      return codec.kv->read(codec.self, x, &layer, factors.data(), groups_, 0, stored_, store.data(), flat_k.ref(), flat_v.ref());
    });
    return finish(engine, k, v);
  }
  for (int which = 0; which < 2; ++which) {
    const tn_target target = target_of(engine, *block_, which, group);
    check(codec.api->estimate(codec.self, engine.api(), engine.device(), &target, TN_QUANTIZER_DECODE, group * width, &e), "planning to read a key-value cache");
    for (int64_t g = 0; g < stored_; ++g) {
      const Views views(coded_[which][static_cast<size_t>(g)]);
      const Tensor rows = (which == 0 ? k : v).rows(g * group, (g + 1) * group).reshaped({group, width});
      engine.with_workspace(e, "read key-value cache",
                            [&](const tn_exec* x) { return codec.api->decode(codec.self, x, &target, views.data(), 0, group * width, rows.ref()); });
    }
  }
}

std::pair<Tensor, Tensor> KvCache::read(Engine& engine, int64_t rows) const {
  const ModelConfig& c = *block_->config;
  const int64_t old = stored_ * codec_->plan.group, all = tokens() + rows;
  const Tensor k = engine.empty(Category::kWorkspace, engine.compute(), {all, c.kv_heads, c.head_dim}),
               v = engine.empty(Category::kWorkspace, engine.compute(), {all, c.kv_heads, c.head_dim});
  if (stored_ > 0) restore(engine, k.rows(0, old), v.rows(0, old));
  if (waiting_ > 0) {
    engine.copy(k_.rows(0, waiting_), k.rows(old, old + waiting_));
    engine.copy(v_.rows(0, waiting_), v.rows(old, old + waiting_));
  }
  return {k, v};
}

}  // namespace tenon::trainer
