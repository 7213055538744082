// The efficientqat quantizer: options, sizes and the three tables: codec, training form, external layout.
#pragma once

#include "sdk/integer/grouped.h"
#include "sdk/quantizer.h"
#include "sdk/workspace.h"
#include "tenon/trainable.h"

namespace tenon::efficientqat {

struct Options {
  int bits = 2, scale_bits = 16;
  int64_t group_size = 64;
  bool trained = true;
  int64_t samples = 4096, length = 2048, validation = 64, epochs = 2, batch = 2;
  double quant_lr = 1e-4, weight_lr = 2e-5;
  std::string optimizer;
  float top() const { return static_cast<float>((1 << bits) - 1); }
};

struct Sizes : sdk::GroupedSizes {
  Sizes(const tn_target& target, const Options& o) : GroupedSizes(target, o.bits, o.group_size) { scale_bits = o.scale_bits; }
};
using Parts = sdk::GroupedParts;

// The training form, or its gradient, where null is not wanted.
struct Values {
  float *weight, *scales, *zeros;  // [m, n], [m, groups] twice
};

// Of one encode: the weight in f32 and its grids, as in training.
struct Scratch {
  Values values;
  Scratch(sdk::Workspace& w, const Sizes& s)
      : values{w.take<float>(s.m * s.n), w.take<float>(s.m * s.groups), w.take<float>(s.m * s.groups)} {}
};

class Codec {
 public:
  static constexpr uint32_t kSites = TN_SITE_WEIGHT;

  Codec(const tn_host*, const sdk::Hypers& hypers);

  void supports(const tn_query& query) const;
  void plan(const tn_target& target, const tn_component_sink& sink) const;
  void estimate(const tn_device_api*, tn_device*, const tn_target& target, uint32_t op, int64_t rows, tn_estimate& out) const;
  // Without training: each group's range, rounded to nearest.
  void encode(const tn_exec* exec, const tn_target& target, const tn_tensor& src, tn_tensor* const* components, const tn_rng* rng) const;
  void decode(const tn_exec* exec, const tn_target& target, tn_tensor* const* components, int64_t begin, int64_t end, tn_tensor& dst) const;
  void linear(const tn_exec* exec, const tn_target& target, tn_tensor* const* components, const tn_tensor& x, double alpha, double beta,
              tn_tensor& y) const;

  const Options& options() const { return options_; }

 private:
  Options options_;
};

const tn_trainable& trainable_table();
extern const tn_layout kLayout;  // "gptq": written for other tools, read back by the quantizer gptq

}  // namespace tenon::efficientqat
