// The bitstack quantizer: options, the components of a weight, and what is done with them.
//
// w[i, j] = columns[j] · Σ_s sign_s[i, j] · (U_s V_s)[i, j], s over the segments that are there.
#pragma once

#include "sdk/calibrate.h"
#include "sdk/codec.h"
#include "sdk/workspace.h"
#include "tenon/segments.h"

namespace tenon::bitstack {

struct Options {
  int64_t rank = 16, segments = 16;
  bool scaled = true;
  int64_t samples = 256, length = 2048;
  int64_t scored_levels = 1, score_samples = 32, score_length = 256;
};

// Sizes of a weight; the last axis of the target is the input, those before it are rows.
struct Sizes {
  int64_t m = 0, n = 0, rank = 0, segments = 0, sign_row = 0;  // sign_row: bytes, eight signs each, the first in the highest bit
  Sizes(const tn_target& target, const Options& o) {
    const int64_t all = sdk::elements(target);
    n = target.ndim > 0 ? target.shape[target.ndim - 1] : 1;
    m = n > 0 ? all / n : 0;
    rank = std::min({o.rank, m, n}), segments = o.segments, sign_row = sdk::ceil_div(n, 8);
  }
  int64_t segment_bytes() const { return m * sign_row + 2 * rank * (m + n); }
  int64_t bytes() const { return segments * segment_bytes() + 4 * n; }
};

// The components, typed and checked; `segments` is how many are there.
struct Parts {
  int64_t segments = 0;
  uint8_t* signs = nullptr;  // [segments, m, sign_row]
  sdk::f16* u = nullptr;     // [segments, m, rank]
  sdk::f16* v = nullptr;     // [segments, rank, n]
  float* columns = nullptr;  // [n]

  Parts(const Sizes& s, tn_tensor* const* components) {
    segments = components[0]->ndim == 2 ? components[0]->shape[0] : 0;
    if (segments < 1 || segments > s.segments)
      sdk::fail(TN_E_ARGUMENT, "bitstack: " + std::to_string(segments) + " segments were passed where 1 to " + std::to_string(s.segments) + " can be");
    signs = sdk::component<uint8_t>(components, 0, "signs", segments * s.m * s.sign_row);
    u = sdk::component<sdk::f16>(components, 1, "u", segments * s.m * s.rank);
    v = sdk::component<sdk::f16>(components, 2, "v", segments * s.rank * s.n);
    columns = sdk::component<float>(components, 3, "columns", s.n);
  }
};

class Codec {
 public:
  static constexpr uint32_t kSites = TN_SITE_WEIGHT;

  Codec(const tn_host*, const sdk::Hypers& hypers);

  void supports(const tn_query& query) const;
  void plan(const tn_target& target, const tn_component_sink& sink) const;
  void estimate(const tn_device_api* api, tn_device* device, const tn_target& target, uint32_t op, int64_t rows, tn_estimate& out) const;
  // Without a scale of the inputs: all count alike.
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
  Options options_;
};

}  // namespace tenon::bitstack
