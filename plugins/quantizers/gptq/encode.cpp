// Both ways to code a weight: rounded to nearest, and the method, with the Gram matrix of its inputs.
#include <algorithm>

#include "quantizers/gptq/store.h"
#include "sdk/linalg/upper_factor.h"

namespace tenon::gptq {
namespace {

struct CalibratedScratch {
  Scratch weight;
  float *h, *error, *diagonal;
  int32_t* order;
  sdk::FactorScratch factor;
  uint64_t products;  // offset of the products' own workspace
  CalibratedScratch(sdk::Workspace& space, const Sizes& s, const Options& o)
      : weight(space, s),
        h(space.take<float>(s.n * s.n)),
        error(space.take<float>(s.m * std::min(o.block_size, std::max<int64_t>(s.n, 1)))),
        diagonal(space.take<float>(s.n)),
        order(space.take<int32_t>(s.n)),
        factor(space, s.n),
        products(space.mark()) {}
};

uint64_t product_bytes(const tn_device_api* api, tn_device* device, const Sizes& s, const Options& o, const Scratch& weight) {
  const sdk::Products products(api, device);
  Problem p = problem(s, o, weight);
  p.block = std::min(o.block_size, std::max<int64_t>(s.n, 1));
  return std::max(sdk::factor_inverse_products(products, s.n), solve_products(products, p));
}

// The diagonal of the Gram matrix; and the order of its inputs, those with the largest squares first where that is asked for. An input that is
// always zero counts as one here. Returns the mean.
double look_at_inputs(const tn_exec* exec, const tn_target& target, const CalibratedScratch& scratch, const float* gram, int64_t n, bool act_order) {
  float* const squares = scratch.diagonal;
  sdk::for_each(exec, n, [=] TN_KERNEL(int64_t j) { squares[j] = gram[j * n + j]; });
  sdk::OnHost<float> diagonal(exec, squares, n);
  sdk::OnHost<int32_t> order = sdk::OnHost<int32_t>::unread(exec, scratch.order, n);
  const auto size = [&](int32_t j) { return diagonal[j] == 0 ? 1 : diagonal[j]; };
  double mean = 0;
  for (int32_t j = 0; j < n; ++j) {
    if (!sdk::is_finite(diagonal[j]))
      sdk::fail(TN_E_NUMERIC, sdk::name_of(target) + ": the calibration text drives this layer's inputs to NaN or Inf; use --dtype f32 or other text");
    mean += size(j), order[j] = j;
  }
  if (act_order) std::stable_sort(order.data(), order.data() + n, [&](int32_t a, int32_t b) { return size(a) > size(b); });
  order.put_back();
  return mean / static_cast<double>(n);
}

// p.w = the weight in the order of its columns; an input that is always zero may have any weights, so they are zero.
void arrange(const tn_exec* exec, const Problem& p, const float* weight, const float* squares) {
  sdk::for_each_block(
      exec, p.m,
      [=] TN_KERNEL(const sdk::Block& row) {
        const float* const from = weight + row.index * p.n;
        float* const to = p.w + row.index * p.n;
        const int32_t* const order = p.order;
        row.each(p.n, [=](int64_t i) { to[i] = squares[order[i]] == 0 ? 0.0f : from[order[i]]; });
        if (!p.fixed) return;
        for (int64_t g = 0; g < p.groups(); ++g) {
          const Grid found = find_grid(row, from + g * p.group, p.group < p.n - g * p.group ? p.group : p.n - g * p.group, p.grid);
          Grid* const grid = p.grids + row.index * p.groups() + g;
          row.each(1, [=](int64_t) { *grid = found; });
        }
      },
      p.n);
}

// h = the damped Hessian in the order of the columns, from the upper triangle of the Gram matrix.
void make_hessian(const tn_exec* exec, const Problem& p, const float* gram, const float* squares, float damping, float* h) {
  sdk::for_each_block(
      exec, p.n,
      [=] TN_KERNEL(const sdk::Block& row) {
        const int32_t* const order = p.order;
        const int64_t i = row.index, n = p.n, input = order[i];
        float* const to = h + i * n;
        row.each(n, [=](int64_t j) {
          const int64_t other = order[j];
          const float g = gram[input < other ? input * n + other : other * n + input];
          to[j] = i != j ? g : (squares[input] == 0 ? 1.0f : squares[input]) + damping;
        });
      },
      p.n);
}

}  // namespace

void Codec::encode(const tn_exec* exec, const tn_target& target, const tn_tensor& src, tn_tensor* const* components, const tn_rng*) const {
  const Sizes s(target, options_);
  const Parts parts(s, components);
  sdk::check_source(target, src, s.m * s.n);
  sdk::Workspace w(*exec);
  const Scratch scratch(w, s);
  sdk::convert_values(exec, src, scratch.w, "gptq: a tensor to quantize");
  sdk::require_finite(exec, target, scratch.w, s.m, s.n);
  Problem p = problem(s, options_, scratch);
  p.block = std::max<int64_t>(s.n, 1);
  solve(exec, p, nullptr);
  store(exec, s, p, parts);
}

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
  sdk::require_finite(exec, target, given, s.m, s.n);
  const double mean = look_at_inputs(exec, target, scratch, gram, s.n, options_.act_order);

  Problem p = problem(s, options_, scratch.weight);
  p.block = std::min(options_.block_size, s.n);
  p.error = scratch.error, p.order = scratch.order, p.fixed = options_.static_groups;
  arrange(exec, p, given, scratch.diagonal);

  double damping = options_.damping;
  for (int attempt = 0;; ++attempt, damping *= 10) {
    make_hessian(exec, p, gram, scratch.diagonal, static_cast<float>(damping * mean), scratch.h);
    if (sdk::factor_inverse(exec, products, scratch.h, s.n, scratch.factor)) break;
    if (attempt == 4)
      sdk::fail(TN_E_NUMERIC, sdk::name_of(target) + ": its inputs depend on each other too closely to be factored; give more calibration text or a greater gptq:damp_percent");
  }
  if (damping > options_.damping && host_ && host_->log)
    host_->log(host_, TN_LOG_WARNING, (sdk::name_of(target) + ": gptq:damp_percent was raised to " + std::to_string(damping) + " for this weight, whose inputs depend on each other closely").c_str());
  p.u = scratch.h;
  solve(exec, p, &products);
  store(exec, s, p, parts);
}

}  // namespace tenon::gptq
