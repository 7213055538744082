// The method: weights coded with the Gram matrix of their inputs.
#include <numeric>
#include <vector>

#include "quantizers/gptq/store.h"
#include "sdk/linalg/upper_factor.h"

namespace tenon::gptq {
namespace {

struct CalibratedScratch {
  Scratch weight;
  float *h, *error;
  int32_t *order, *fixed;
  sdk::FactorScratch factor;
  uint64_t products;  // offset of the products' own workspace
  CalibratedScratch(sdk::Workspace& space, const Sizes& s, const Options& o)
      : weight(space, s),
        h(space.take<float>(s.n * s.n)),
        error(space.take<float>(s.m * std::min(o.block_size, std::max<int64_t>(s.n, 1)))),
        order(space.take<int32_t>(s.n)),
        fixed(space.take<int32_t>(s.n)),
        factor(space, s.n),
        products(space.mark()) {}
};

uint64_t product_bytes(const tn_device_api* api, tn_device* device, const Sizes& s, const Options& o, const Scratch& weight) {
  const sdk::Products products(api, device);
  Problem p = problem(s, o, weight);
  p.block = std::min(o.block_size, std::max<int64_t>(s.n, 1));
  return std::max(sdk::factor_inverse_products(products, s.n), solve_products(products, p));
}

}  // namespace

void Codec::calibration(tn_calibration_plan& out) const {
  out.statistic = TN_STATISTIC_GRAM, out.prefix = TN_PREFIX_CODED;
  out.sequences = options_.calibrated ? options_.samples : 0;
  out.length = options_.length;
}

void Codec::estimate_calibrated(const tn_device_api* api, tn_device* device, const tn_target& target, tn_estimate& out) const {
  const Sizes s(target, options_);
  sdk::Workspace w;
  const CalibratedScratch scratch(w, s, options_);
  const double n = static_cast<double>(s.n), m = static_cast<double>(s.m);
  sdk::set_estimate(out, n * n * n * 2 / 3 + m * n * n, 4 * (n * n + 2 * m * n), 0, w.peak() + product_bytes(api, device, s, options_, scratch.weight));
}

void Codec::encode_calibrated(const tn_exec* exec, const tn_target& target, tn_tensor& src, const tn_tensor& statistic, int64_t tokens,
                              tn_tensor* const* components, const tn_rng*) const {
  const Sizes s(target, options_);
  const Parts parts(s, components);
  sdk::check_source(target, src, s.m * s.n);
  const float* given = sdk::contiguous<float>(&src, "gptq: the weight");
  const float* gram = sdk::contiguous<float>(&statistic, "gptq: the statistic");
  if (sdk::count(statistic) != s.n * s.n)
    sdk::fail(TN_E_ARGUMENT, sdk::name_of(target) + ": the statistic of a weight with " + std::to_string(s.n) + " inputs is a square of that size");
  if (tokens <= 0) sdk::fail(TN_E_ARGUMENT, sdk::name_of(target) + ": no token of calibration text was seen; give gptq some, or gptq:calibrate=false");
  sdk::Workspace space(*exec);
  const CalibratedScratch scratch(space, s, options_);
  const sdk::Products products(exec->api, exec->device, exec->stream, space.behind(scratch.products), space.bytes_behind(scratch.products));
  sdk::require_finite(target, given, s.m, s.n);

  std::vector<float> diagonal(static_cast<size_t>(s.n));
  std::vector<bool> dead(static_cast<size_t>(s.n));
  double mean = 0;
  for (int64_t j = 0; j < s.n; ++j) {
    float d = gram[j * s.n + j];
    if (!sdk::is_finite(d)) sdk::fail(TN_E_NUMERIC, sdk::name_of(target) + ": the calibration text drives this layer's inputs to NaN or Inf; use --dtype f32 or other text");
    dead[j] = d == 0;  // an input that is always zero: its weights may be anything, so they are zero
    diagonal[j] = dead[j] ? 1 : d;
    mean += diagonal[j];
  }
  mean /= static_cast<double>(s.n);
  std::iota(scratch.order, scratch.order + s.n, 0);
  if (options_.act_order)
    std::stable_sort(scratch.order, scratch.order + s.n, [&](int32_t a, int32_t b) { return diagonal[a] > diagonal[b]; });

  Problem p = problem(s, options_, scratch.weight);
  p.block = std::min(options_.block_size, s.n);
  p.error = scratch.error;
  const int32_t* order = scratch.order;
  const auto is_dead = [&dead](int64_t j) { return dead[static_cast<size_t>(j)]; };
  sdk::for_each_block(exec, s.m, [&, given, order](const sdk::Block& row) {
    const float* from = given + row.index * s.n;
    float* to = p.w + row.index * s.n;
    for (int64_t i = 0; i < s.n; ++i) to[i] = is_dead(order[i]) ? 0 : from[order[i]];
    if (!options_.static_groups) return;
    // Grids of the weight as it was, in the order of its inputs.
    for (int64_t g = 0; g < s.groups; ++g)
      p.grids[row.index * s.groups + g] = find_grid(from + g * s.group, std::min(s.group, s.n - g * s.group), options_.grid);
  });
  if (options_.static_groups) {
    for (int64_t i = 0; i < s.n; ++i) scratch.fixed[i] = static_cast<int32_t>(order[i] / s.group);
    p.fixed = scratch.fixed;
  }

  double damping = options_.damping;
  for (int attempt = 0;; ++attempt, damping *= 10) {
    sdk::for_each_block(exec, s.n, [&, gram, order](const sdk::Block& row) {
      const int64_t i = row.index;
      float* to = scratch.h + i * s.n;
      for (int64_t j = 0; j < s.n; ++j) to[j] = gram[std::min(order[i], order[j]) * s.n + std::max(order[i], order[j])];
      to[i] = diagonal[order[i]] + static_cast<float>(damping * mean);
    });
    if (sdk::factor_inverse(products, scratch.h, s.n, scratch.factor)) break;
    if (attempt == 4)
      sdk::fail(TN_E_NUMERIC, sdk::name_of(target) + ": its inputs depend on each other too closely to be factored; give more calibration text or a greater gptq:damp_percent");
  }
  if (damping > options_.damping && host_ && host_->log)
    host_->log(host_, TN_LOG_WARNING, (sdk::name_of(target) + ": gptq:damp_percent was raised to " + std::to_string(damping) + " for this weight, whose inputs depend on each other closely").c_str());
  p.u = scratch.h;
  solve(exec, p, &products);
  store(exec, s, options_, p, order, parts);
}

}  // namespace tenon::gptq
