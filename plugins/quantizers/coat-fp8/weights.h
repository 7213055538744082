// Weights in E4M3 under one scale, and their products as the paper's forward pass makes them: the input is coded under a scale of its own
// for the call, and FP8 meets FP8.
#pragma once

#include "quantizers/coat-fp8/values.h"
#include "sdk/workspace.h"
#include "tenon/gemm_fp8.h"

namespace tenon::coat {

class Weight {
 public:
  explicit Weight(const tn_target& target) : target_(target), groups_(1, sdk::elements(target), 0) {}

  void plan(const tn_component_sink& sink) const {
    sdk::declare(sink, "codes", sdk::kU8, groups_.count(), 8);
    sdk::declare(sink, "scale", sdk::kF32, 1);
  }
  void estimate(const tn_device_api* api, tn_device* device, uint32_t op, int64_t rows, tn_estimate& out) const {
    const int64_t n = groups_.count();
    const double elements = static_cast<double>(n);
    const uint64_t state = static_cast<uint64_t>(n) + sizeof(float);
    if (op == TN_QUANTIZER_LINEAR_BACKWARD) sdk::fail(TN_E_UNSUPPORTED, "coat-fp8 multiplies gradients by the decoded weight; decode and multiply");
    if (op != TN_QUANTIZER_LINEAR) {
      sdk::Workspace w;
      if (op == TN_QUANTIZER_ENCODE) (void)Scratch(w, n, 0);
      return sdk::set_estimate(out, 10 * elements, elements * (1 + target_.dtype.bits / 8.0 * (op == TN_QUANTIZER_ENCODE ? 2 : 1)), state, w.peak());
    }
    const tn_gemm_fp8* const products = products_of(api);
    if (!products || target_.ndim != 2) sdk::fail(TN_E_UNSUPPORTED, "coat-fp8: this device multiplies no FP8 (org.tenon.gemm-fp8/1); decode and multiply");
    const int64_t height = target_.shape[0], width = target_.shape[1];
    sdk::Workspace w;
    const Scratch scratch(w, rows * width, rows * width);
    uint64_t most = 0;
    for (const tn_dtype type : {sdk::kF32, sdk::kBF16})
      for (const double beta : {0.0, 0.5, 1.0}) {
        uint64_t bytes = 0;
        const tn_fp8_product p = product(rows, nullptr, nullptr, nullptr, nullptr, nullptr, type, 1, beta);
        sdk::check(products->workspace(device, &p, &bytes));
        most = std::max(most, bytes);
      }
    const double values = target_.dtype.bits / 8.0 * static_cast<double>(rows) * static_cast<double>(2 * width + height);
    sdk::set_estimate(out, 2 * elements * static_cast<double>(rows), static_cast<double>(state) + values, state, scratch.end + most);
  }
  void encode(const tn_exec* exec, const tn_tensor& src, tn_tensor* const* components) const {
    const int64_t n = groups_.count();
    sdk::check_source(target_, src, n);
    uint8_t* const codes = sdk::component<uint8_t>(components, 0, "codes", n);
    float* const scale = sdk::component<float>(components, 1, "scale", 1);
    if (n == 0) return;
    sdk::Workspace w(*exec);
    const Scratch scratch(w, n, 0);
    sdk::FirstBad bad(exec);
    code(exec, src, n, scratch, codes, scale, bad);
    bad.raise(target_, n);
  }
  void decode(const tn_exec* exec, tn_tensor* const* components, int64_t begin, int64_t end, tn_tensor& dst) const {
    const int64_t n = groups_.count();
    const uint8_t* const codes = sdk::component<uint8_t>(components, 0, "codes", n);
    const float* const scale = sdk::component<float>(components, 1, "scale", 1);
    sdk::with_float_type(dst.dtype, "coat-fp8: a decoded weight", [&](auto type) { decode_values(exec, groups_, codes, scale, begin, end, sdk::data<decltype(type)>(dst)); });
  }
  void linear(const tn_exec* exec, tn_tensor* const* components, const tn_tensor& x, double alpha, double beta, tn_tensor& y) const {
    const sdk::Product p(target_, x, y, int64_t{1} << 40);
    if (p.rows == 0 || p.m == 0) return;
    const tn_gemm_fp8* const products = products_of(exec->api);
    if (!products) sdk::fail(TN_E_UNSUPPORTED, "coat-fp8: this device multiplies no FP8");
    sdk::Workspace w(*exec);
    const Scratch scratch(w, p.rows * p.n, p.rows * p.n);
    // NaN and Inf in x become a scale that is NaN, and show in y.
    if (p.n > 0) {
      sdk::FirstBad unread(exec);
      code(exec, x, p.rows * p.n, scratch, scratch.codes, scratch.scale, unread);
    }
    const tn_fp8_product call = product(p.rows, scratch.codes, scratch.scale, sdk::component<uint8_t>(components, 0, "codes", groups_.count()),
                                        sdk::component<float>(components, 1, "scale", 1), sdk::data<void>(y), y.dtype, alpha, beta);
    sdk::check(products->run(exec->device, exec->stream, &call, w.behind(scratch.end), w.bytes_behind(scratch.end)));
  }

 private:
  struct Scratch {
    float *partial, *scale;
    uint8_t* codes;
    uint64_t end;
    // For coding n values; `kept`: how many codes are held here.
    Scratch(sdk::Workspace& w, int64_t n, int64_t kept) {
      w.take<char>(sdk::FirstBad::kBytes);
      partial = w.take<float>(sdk::ceil_div(n, kBlockElements)), scale = w.take<float>(1), codes = w.take<uint8_t>(kept), end = w.mark();
    }
  };
  static const tn_gemm_fp8* products_of(const tn_device_api* api) {
    return api && api->get_extension ? static_cast<const tn_gemm_fp8*>(api->get_extension(TN_EXT_GEMM_FP8)) : nullptr;
  }
  static void code(const tn_exec* exec, const tn_tensor& x, int64_t n, const Scratch& s, uint8_t* codes, float* scale, sdk::FirstBad& bad) {
    sdk::with_float_type(x.dtype, "coat-fp8: a factor of a product", [&](auto type) {
      encode_whole(exec, n, sdk::data<const decltype(type)>(x), s.partial, codes, scale, bad.found());
    });
  }
  tn_fp8_product product(int64_t rows, const uint8_t* x, const float* x_scale, const uint8_t* w, const float* w_scale, void* y, tn_dtype type, double alpha,
                         double beta) const {
    const int64_t height = target_.shape[0], width = target_.shape[1];
    return {TN_SIZE_TO(tn_fp8_product, beta), 0, rows, height, width, x, w, width, width, x_scale, w_scale, y, height, type, 0, alpha, beta};
  }

  const tn_target& target_;
  Groups groups_;
};

}  // namespace tenon::coat
