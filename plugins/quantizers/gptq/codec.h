// The gptq quantizer: options, the components of a weight, and what is done with them.
#pragma once

#include "quantizers/gptq/pack.h"
#include "quantizers/gptq/solve.h"
#include "sdk/calibrate.h"
#include "sdk/workspace.h"

namespace tenon::gptq {

struct Options {
  GridOptions grid;
  int64_t group_size = 128;  // −1: the whole row
  int64_t block_size = 128;
  double damping = 0.01;
  bool act_order = false, static_groups = false, calibrated = true;
  int64_t samples = 128, length = 2048;
};

// Sizes of a weight [m, n]; the last axis is the input, those before it are rows.
struct Sizes {
  int64_t m, n, group, groups, code_row, zero_row;
  bool indexed;  // a group is no run of neighbouring inputs, so that every input names its own
  Sizes(const tn_target& target, const Options& o);
};

// The components, typed and checked.
struct Parts {
  uint8_t *codes, *zeros;  // [m, code_row], [m, zero_row] bytes
  sdk::f16* scales;        // [m, groups]
  int32_t* g_idx;          // [n], or null
  Parts(const Sizes& s, tn_tensor* const* components);
  int64_t group_of(const Sizes& s, int64_t j) const { return g_idx ? g_idx[j] : j / s.group; }
};

class Codec {
 public:
  static constexpr uint32_t kSites = TN_SITE_WEIGHT;

  Codec(const tn_host* host, const sdk::Hypers& hypers);

  void supports(const tn_query& query) const;
  void plan(const tn_target& target, const tn_component_sink& sink) const;
  void estimate(const tn_device_api* api, tn_device* device, const tn_target& target, uint32_t op, int64_t rows, tn_estimate& out) const;
  // Round to nearest on the same grids: what the method is where nothing is known of the inputs.
  void encode(const tn_exec* exec, const tn_target& target, const tn_tensor& src, tn_tensor* const* components, const tn_rng* rng) const;
  void decode(const tn_exec* exec, const tn_target& target, tn_tensor* const* components, int64_t begin, int64_t end, tn_tensor& dst) const;

  void calibration(tn_calibration_plan& out) const;
  void estimate_calibrated(const tn_device_api* api, tn_device* device, const tn_target& target, tn_estimate& out) const;
  void encode_calibrated(const tn_exec* exec, const tn_target& target, tn_tensor& src, const tn_tensor& statistic, int64_t tokens,
                         tn_tensor* const* components, const tn_rng* rng) const;

  const Options& options() const { return options_; }

 private:
  const tn_host* host_;
  Options options_;
};

}  // namespace tenon::gptq
