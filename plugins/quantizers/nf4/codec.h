// The nf4 quantizer: its options and the methods behind tn_quantizer_api.
#pragma once

#include "quantizers/nf4/scales.h"
#include "sdk/quantizer.h"

namespace tenon::nf4 {

class Codec {
 public:
  static constexpr uint32_t kSites = TN_SITE_WEIGHT | TN_SITE_DELTA;

  Codec(const tn_host*, const sdk::Hypers& hypers);
  void supports(const tn_query& query) const;
  void plan(const tn_target& target, const tn_component_sink& sink) const;
  void estimate(const tn_device_api*, tn_device*, const tn_target& target, uint32_t op, int64_t rows,
                tn_estimate& out) const;
  void encode(const tn_exec* exec, const tn_target& target, const tn_tensor& src, tn_tensor* const* components,
              const tn_rng*) const;
  void decode(const tn_exec* exec, const tn_target& target, tn_tensor* const* components, int64_t begin, int64_t end,
              tn_tensor& dst) const;
  void linear(const tn_exec* exec, const tn_target& target, tn_tensor* const* components, const tn_tensor& x,
              double alpha, double beta, tn_tensor& y) const;
#if !TN_GPU  // org.tenon.linears/1
  void estimate_linears(const tn_target* const* targets, uint64_t n, int64_t rows, tn_estimate& out) const;
  void linears(const tn_exec* exec, const tn_target* const* targets, tn_tensor* const* const* components, uint64_t n, const tn_tensor& x,
               tn_tensor* const* y) const;
#endif

  const CodeBook& book() const { return *book_; }
  int64_t blocksize() const { return blocksize_; }
  bool double_quant() const { return double_quant_; }

 private:
  const CodeBook* book_;
  int64_t blocksize_;
  bool double_quant_;
};

extern const tn_layout kLayout;  // "bitsandbytes"

}  // namespace tenon::nf4
