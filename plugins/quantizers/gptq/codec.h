// The gptq quantizer: options, the components of a weight, and what is done with them.
#pragma once

#include "quantizers/gptq/grid.h"
#include "sdk/calibrate.h"
#include "sdk/integer/grouped.h"
#include "sdk/workspace.h"

namespace tenon::gptq {

struct Options {
  GridOptions grid;
  int64_t group_size = 128;  // −1: the whole row
  int64_t block_size = 128;
  double damping = 0.01;
  bool act_order = false, static_groups = false, calibrated = true;
  int64_t samples = 128, length = 2048;
  bool second_layout = false;  // files hold zero points as they are, not less one
};

struct Sizes : sdk::GroupedSizes {
  Sizes(const tn_target& target, const Options& o);
};
using Parts = sdk::GroupedParts;

// Scratch of one weight: where a bad weight is noted, its f32 copy, a byte a code, the grids.
struct Scratch {
  char* bad;
  float* w;
  uint8_t* codes;
  Grid* grids;
  Scratch(sdk::Workspace& space, const Sizes& s)
      : bad(space.take<char>(sdk::FirstBad::kBytes)), w(space.take<float>(s.m * s.n)), codes(space.take<uint8_t>(s.m * s.n)), grids(space.take<Grid>(s.m * s.groups)) {}
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
  void linear(const tn_exec* exec, const tn_target& target, tn_tensor* const* components, const tn_tensor& x, double alpha, double beta,
              tn_tensor& y) const;

  void calibration(tn_calibration_plan& out) const;
  void estimate_calibrated(const tn_device_api* api, tn_device* device, const tn_target& target, tn_estimate& out) const;
  void encode_calibrated(const tn_exec* exec, const tn_target& target, tn_tensor& src, const tn_tensor& statistic, int64_t tokens,
                         tn_tensor* const* components, const tn_rng* rng) const;

  const Options& options() const { return options_; }

 private:
  const tn_host* host_;
  Options options_;
};

extern const tn_layout kLayout;  // "gptq"

}  // namespace tenon::gptq
