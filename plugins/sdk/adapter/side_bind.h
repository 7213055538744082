// SideNetwork: its shape, its parameters and where they start.
#pragma once

#include <algorithm>
#include <cstring>

#include "sdk/adapter/side_network.h"

namespace tenon::sdk {

inline SideNetwork::Sampler SideNetwork::declare_sampler(RegionDeclarer& declare, const std::string& key) {
  Sampler p;
  if (s_.down == Down::kPool) return p;
  if (s_.down == Down::kDense) {
    p.first = declare.param({side_, model_.hidden}, key + ".weight"), starts_.push_back({Kind::kFactor, model_.hidden});
    p.bias = declare.param({side_, 0}, key + ".bias", 0), starts_.push_back({Kind::kZero});
    return p;
  }
  p.first = declare.param({s_.inner, model_.hidden}, key + ".down.weight", 1, !s_.freeze_first), starts_.push_back({Kind::kFactor, model_.hidden});
  p.second = declare.param({side_, s_.inner}, key + ".up.weight"), starts_.push_back({Kind::kFactor, s_.inner});
  return p;
}

inline void SideNetwork::bind(const tn_region_model& model, const tn_region_sink& sink) {
  model_ = {};
  std::memcpy(&model_, &model, std::min<size_t>(model.struct_size, sizeof model_));  // an older host's is shorter
  if (s_.start == SideStart::kRanked && !model_.read_rows)
    fail(TN_E_UNSUPPORTED, name_ + ": this host is older than the weights by which units are ranked; choose init=even or init=fresh");
  if (model.hidden % s_.reduction != 0)
    fail(TN_E_ARGUMENT, name_ + ": reduction " + std::to_string(s_.reduction) + " must divide the model's width " + std::to_string(model.hidden));
  side_ = model.hidden / s_.reduction;
  intermediate_ = std::max<int64_t>(1, model.intermediate / s_.reduction);
  // As many heads as the backbone where they come out even (rotation turns pairs), else fewer.
  heads_ = model.heads;
  while (heads_ > 1 && (side_ % heads_ != 0 || side_ / heads_ % 2 != 0)) --heads_;
  head_dim_ = side_ / heads_;
  if (head_dim_ % 2 != 0)
    fail(TN_E_ARGUMENT, name_ + ": a side width of " + std::to_string(side_) + " has no even head size; choose another reduction");
  kv_heads_ = std::min<int64_t>(model.kv_heads, heads_);
  while (heads_ % kv_heads_ != 0) --kv_heads_;
  if (s_.start != SideStart::kFresh && (heads_ != model.heads || kv_heads_ != model.kv_heads))
    fail(TN_E_ARGUMENT, name_ + ": blocks can be copied only where every head keeps an even size; choose another reduction or init=fresh");

  RegionDeclarer declare(sink);
  starts_.clear(), levels_.clear();
  const std::string at = "base_model.model.side.";
  if (!s_.tie_first_taps) entry_ = declare_sampler(declare, at + "entry");
  for (uint32_t i = 0; i < model.n_blocks; ++i) {
    Level level;
    level.dropped = std::find(s_.dropped.begin(), s_.dropped.end(), static_cast<int64_t>(i)) != s_.dropped.end();
    if (!level.dropped) {
      const std::string key = at + "layers." + std::to_string(i);
      level.down = declare_sampler(declare, key + ".downsample");
      level.gate = declare.param({s_.vector_gate ? side_ : 1, 0}, key + ".gate", 0), starts_.push_back({Kind::kGate});
      const std::string block_key = key + ".block";
      level.block = declare.block({sizeof(tn_side_block), 0, side_, intermediate_, static_cast<uint32_t>(heads_), static_cast<uint32_t>(kv_heads_),
                                   static_cast<uint32_t>(head_dim_), static_cast<int32_t>(i), block_key.c_str()});
      const auto number = static_cast<int32_t>(i);
      for (int k = 0; k < 2; ++k) starts_.push_back({Kind::kBlockNorm, 1, -1, number});
      for (int slot = 0; slot < 7; ++slot) starts_.push_back({Kind::kBlockLinear, slot == 6 ? intermediate_ : slot == 3 ? heads_ * head_dim_ : side_, slot, number});
    }
    levels_.push_back(level);
  }
  if (std::all_of(levels_.begin(), levels_.end(), [](const Level& l) { return l.dropped; }))
    fail(TN_E_ARGUMENT, name_ + ": every side block is dropped; keep at least one");
  if (s_.tie_first_taps) entry_ = std::find_if(levels_.begin(), levels_.end(), [](const Level& l) { return !l.dropped; })->down;
  norm_ = declare.param({side_, 0}, at + "norm.weight", 0), starts_.push_back({Kind::kOne});
  up_ = declare.param({model.hidden, side_}, at + "upsample.weight"), starts_.push_back({Kind::kFactor, side_});
  if (s_.mix_output) {
    logit_ = declare.param({1, 0}, at + "output_gate", 0), starts_.push_back({Kind::kLogit});
  } else {
    up_bias_ = declare.param({model.hidden, 0}, at + "upsample.bias", 0), starts_.push_back({Kind::kZero});
  }
}

inline void SideNetwork::init(const tn_exec* exec, uint32_t param, const tn_base_linear* base, const tn_rng& rng, tn_tensor& value) const {
  const Start& start = starts_.at(param);
  float* w = contiguous<float>(&value, "a parameter of a side network");
  const int64_t n = count(value);
  switch (start.kind) {
    case Kind::kZero: return fill_constant(exec, 0, w, n);
    case Kind::kOne: return fill_constant(exec, 1, w, n);
    case Kind::kGate: return fill_constant(exec, static_cast<float>(s_.gate_start), w, n);
    case Kind::kLogit: return fill_constant(exec, static_cast<float>(s_.output_logit), w, n);
    case Kind::kBlockNorm:
    case Kind::kBlockLinear:
      if (s_.start != SideStart::kFresh && base) return copy_linear(exec, start.slot, units(exec, start.block), *base, value);
      if (start.slot < 0) return fill_constant(exec, 1, w, n);
      return fill_kaiming(exec, rng, start.fan_in, w, n);
    default: fill_kaiming(exec, rng, start.fan_in, w, n);
  }
}

inline const side::Units& SideNetwork::units(const tn_exec* exec, int32_t block) const {
  const auto found = units_.find(block);
  if (found != units_.end()) return found->second;
  const side::Units::Shape shape{side_, intermediate_, head_dim_};
  if (s_.start == SideStart::kEven) return units_[block] = side::Units::even(model_, shape);
  if (hidden_.empty()) hidden_ = side::Units::ranked_hidden(exec, model_, shape);
  return units_[block] = side::Units::ranked(exec, model_, block, shape, hidden_);
}

// The backbone's weight at chosen units.
inline void SideNetwork::copy_linear(const tn_exec* exec, int slot, const side::Units& units, const tn_base_linear& base, tn_tensor& value) const {
  enum { kQ, kK, kV, kO, kGate, kUp, kDown };
  const int64_t D = model_.head_dim, d = head_dim_, group = heads_ / kv_heads_;
  const auto at = [](const std::vector<int32_t>& of, int64_t i) -> int64_t { return of[static_cast<size_t>(i)]; };
  const auto rotated = [&](int64_t i) { return i / d * D + i % d / (d / 2) * (D / 2) + i % (d / 2) * (D / 2) / (d / 2); };
  const auto written = [&](int64_t i) {  // by query head, of the choice for its key head
    const int64_t head = i / d, key = head / group;
    return head * D + at(units.written, key * d + i % d) - key * D;
  };
  const auto row = [&](int64_t i) -> int64_t {
    if (slot < 0) return 0;
    if (slot <= kK) return rotated(i);
    if (slot == kV) return at(units.written, i);
    return at(slot == kGate || slot == kUp ? units.mlp : units.hidden, i);
  };
  const auto column = [&](int64_t j) -> int64_t { return slot == kO ? written(j) : at(slot == kDown ? units.mlp : units.hidden, j); };
  const Matrix to = slot < 0 ? Matrix::dense(contiguous<float>(&value, "a norm"), 1, count(value)) : Matrix::of(value);
  std::vector<int32_t> index(static_cast<size_t>(to.columns));
  for (int64_t j = 0; j < to.columns; ++j) index[static_cast<size_t>(j)] = static_cast<int32_t>(column(j));
  Workspace workspace(*exec);
  int32_t* on_device = workspace.take<int32_t>(to.columns);
  const Matrix line = Matrix::dense(workspace.take<float>(base.n), 1, base.n);
  check(exec->api->copy(exec->device, exec->stream, on_device, index.data(), index.size() * 4, TN_COPY_TO_DEVICE));
  check(exec->api->stream_wait(exec->device, exec->stream));
  for (int64_t i = 0; i < to.rows; ++i) {
    MatrixView view(line);
    check(base.read_rows(base.self, row(i), row(i) + 1, &view.tensor));
    gather_columns(exec, line, on_device, to.row_block(i, 1));
  }
}

}  // namespace tenon::sdk
