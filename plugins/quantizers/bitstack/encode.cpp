// The stack is made: signs, then the dominant part of the magnitudes, then the same of what is left.
#include "quantizers/bitstack/codec.h"
#include "sdk/floats.h"
#include "sdk/linalg/subspace.h"

namespace tenon::bitstack {
namespace {

// Of the subspace. Magnitudes have one large singular value and a flat rest, of which a near miss costs nothing; from the second segment on the
// search begins where the one before ended, as rows and columns that were large leave large residuals.
constexpr int kFirstIterations = 3, kIterations = 3;
constexpr float kLeastNorm = 1e-3f;  // added to every input's norm

struct Scratch {
  char* bad;                    // where NaN or Inf is noted
  float *residual, *magnitude;  // [m, n]
  float *left, *right;          // [m, rank], [n, rank]
  float *u, *v;                 // the factors as they are stored: [m, rank], [rank, n]
  float* roots;                 // [rank]
  double* squares;              // [m]
  sdk::Subspace subspace;
  uint64_t products;  // offset of the products' own workspace

  Scratch(sdk::Workspace& w, const Sizes& s)
      : bad(w.take<char>(sdk::FirstBad::kBytes)),
        residual(w.take<float>(s.m * s.n)),
        magnitude(w.take<float>(s.m * s.n)),
        left(w.take<float>(s.m * s.rank)),
        right(w.take<float>(s.n * s.rank)),
        u(w.take<float>(s.m * s.rank)),
        v(w.take<float>(s.rank * s.n)),
        roots(w.take<float>(s.rank)),
        squares(w.take<double>(s.m)),
        subspace(s.m, s.n, s.rank, false) {
    subspace.lay_out(w);
    products = w.mark();
  }
  sdk::Matrix a(const Sizes& s) const { return sdk::Matrix::dense(magnitude, s.m, s.n); }
  uint64_t product_bytes(const sdk::Products& product, const Sizes& s) const {
    return std::max({subspace.measure(product, a(s)),
                     product.measure(a(s), sdk::Matrix::dense(right, s.n, s.rank), sdk::Matrix::dense(left, s.m, s.rank)),
                     product.measure(sdk::Matrix::dense(u, s.m, s.rank), sdk::Matrix::dense(v, s.rank, s.n), a(s))});
  }
};

// residual ← what the last segment leaves, whose magnitudes `magnitude` holds (first: there is none); magnitude ← |residual|; and its signs, that
// of 0 being +.
void take_signs(const tn_exec* exec, const Sizes& s, const Scratch& x, bool first, uint8_t* signs) {
  const int64_t n = s.n, sign_row = s.sign_row;
  float *const residuals = x.residual, *const magnitudes = x.magnitude;
  sdk::for_each_block(
      exec, s.m,
      [=] TN_KERNEL(const sdk::Block& row) {
        float *const residual = residuals + row.index * n, *const magnitude = magnitudes + row.index * n;
        if (!first) row.each(n, [=](int64_t j) { residual[j] -= residual[j] >= 0 ? magnitude[j] : -magnitude[j]; });
        row.each(n, [=](int64_t j) { magnitude[j] = std::fabs(residual[j]); });
        uint8_t* const bits = signs + row.index * sign_row;
        row.each(sign_row, [=](int64_t b) {
          const float* const from = residual + 8 * b;
          const int64_t there = n - 8 * b < 8 ? n - 8 * b : 8;
          uint32_t byte = 0;
          for (int64_t k = 0; k < there; ++k) byte |= static_cast<uint32_t>(from[k] >= 0) << (7 - k);
          bits[b] = static_cast<uint8_t>(byte);
        });
      },
      n);
}

// Each of the factors with the root of the singular values, which are the norms of the columns of left, in f16; u and v hold what f16 holds.
void split(const tn_exec* exec, const Sizes& s, const Scratch& x, sdk::f16* u16, sdk::f16* v16) {
  const int64_t m = s.m, n = s.n, rank = s.rank;
  const float *const left = x.left, *const right = x.right;
  float *const roots = x.roots, *const u = x.u, *const v = x.v;
  sdk::for_each_block(
      exec, rank,
      [=] TN_KERNEL(const sdk::Block& block) {
        const int64_t k = block.index;
        const double square = block.sum(m, [=](int64_t i) { return static_cast<double>(left[i * rank + k]) * left[i * rank + k]; });
        block.each(1, [=](int64_t) { roots[k] = static_cast<float>(std::sqrt(std::sqrt(square))); });
      },
      m);
  sdk::for_each(exec, m * rank, [=] TN_KERNEL(int64_t i) {
    const float root = roots[i % rank];
    u16[i] = sdk::from_float<sdk::f16>(left[i] * (root > 0 ? 1 / root : 0));
    u[i] = sdk::to_float(u16[i]);
  });
  sdk::for_each(exec, rank * n, [=] TN_KERNEL(int64_t i) {
    const int64_t k = i / n, j = i - k * n;
    v16[i] = sdk::from_float<sdk::f16>(right[j * rank + k] * roots[k]);
    v[i] = sdk::to_float(v16[i]);
  });
}

// The magnitudes' dominant part as two factors.
void take_factors(const tn_exec* exec, const sdk::Products& product, const tn_target& target, const Sizes& s, const Scratch& x, const tn_rng& rng,
                  int64_t segment, sdk::f16* u, sdk::f16* v) {
  double captured = 0;
  const uint64_t draws = static_cast<uint64_t>(segment * s.n * x.subspace.l);
  const bool warm = segment > 0;
  if (!sdk::find_subspace(exec, product, x.subspace, x.a(s), warm ? x.right : nullptr, rng, draws, warm ? kIterations : kFirstIterations, x.right, &captured))
    sdk::fail(TN_E_NUMERIC, sdk::name_of(target) + ": what " + std::to_string(segment) + " segments leave of this weight cannot be factored");
  product(1, x.a(s), sdk::Matrix::dense(x.right, s.n, s.rank), 0, sdk::Matrix::dense(x.left, s.m, s.rank));
  split(exec, s, x, u, v);
}

// The weight's scale: columns, so that what is coded is about 1 and f16 holds the factors of any weight, and the weight by them.
void scale(const tn_exec* exec, const Sizes& s, const Scratch& x, const float* norms, float* columns) {
  const int64_t m = s.m, n = s.n;
  float* const weight = x.residual;
  double* const squares = x.squares;
  sdk::for_each_block(
      exec, m,
      [=] TN_KERNEL(const sdk::Block& row) {
        const float* const w = weight + row.index * n;
        const double sum = row.sum(n, [=](int64_t j) {
          const double v = static_cast<double>(w[j]) * (norms ? norms[j] + kLeastNorm : 1);
          return v * v;
        });
        double* const to = squares + row.index;
        row.each(1, [=](int64_t) { *to = sum; });
      },
      n);
  sdk::OnHost<double> sums(exec, squares, m);
  double all = 0;
  for (int64_t i = 0; i < m; ++i) all += sums[i];
  const double rms = std::sqrt(all / static_cast<double>(m * n)), factor = rms > 0 ? rms : 1;
  sdk::for_each(exec, n, [=] TN_KERNEL(int64_t j) { columns[j] = static_cast<float>(factor / (norms ? norms[j] + kLeastNorm : 1)); });
  sdk::for_each(exec, m * n, [=] TN_KERNEL(int64_t i) { weight[i] = static_cast<float>(weight[i] / static_cast<double>(columns[i % n])); });
}

// x.residual holds the weight. norms: of the inputs, or null.
void stack(const tn_exec* exec, const sdk::Products& product, const tn_target& target, const Sizes& s, const Scratch& x, const float* norms,
           const tn_rng& rng, const Parts& parts) {
  sdk::require_finite(exec, target, x.residual, s.m, s.n);
  scale(exec, s, x, norms, parts.columns);
  for (int64_t segment = 0; segment < s.segments; ++segment) {
    if (segment > 0) product(1, sdk::Matrix::dense(x.u, s.m, s.rank), sdk::Matrix::dense(x.v, s.rank, s.n), 0, x.a(s));
    take_signs(exec, s, x, segment == 0, parts.signs + segment * s.m * s.sign_row);
    take_factors(exec, product, target, s, x, rng, segment, parts.u + segment * s.m * s.rank, parts.v + segment * s.rank * s.n);
  }
}

void require_all(const Sizes& s, const Parts& parts) {
  if (parts.segments != s.segments) sdk::fail(TN_E_ARGUMENT, "bitstack: a weight is coded into all of its segments, of which it has " + std::to_string(s.segments));
}

}  // namespace

void Codec::encode(const tn_exec* exec, const tn_target& target, const tn_tensor& src, tn_tensor* const* components, const tn_rng* rng) const {
  const Sizes s(target, options_);
  const Parts parts(s, components);
  require_all(s, parts);
  sdk::check_source(target, src, s.m * s.n);
  if (s.m * s.n == 0) return;
  sdk::Workspace space(*exec);
  const Scratch x(space, s);
  const sdk::Products product(exec->api, exec->device, exec->stream, space.behind(x.products), space.bytes_behind(x.products));
  sdk::convert_values(exec, src, x.residual, "bitstack: a tensor to quantize");
  stack(exec, product, target, s, x, nullptr, rng ? *rng : tn_rng{}, parts);
}

void Codec::calibration(tn_calibration_plan& out) const {
  out.statistic = TN_STATISTIC_NORMS, out.prefix = TN_PREFIX_PLAIN;
  out.sequences = options_.scaled ? options_.samples : 0, out.length = options_.length;
}

void Codec::estimate_calibrated(const tn_device_api* api, tn_device* device, const tn_target& target, tn_estimate& out) const {
  const Sizes s(target, options_);
  sdk::Workspace w;
  const Scratch x(w, s);
  const uint64_t products = s.m * s.n > 0 ? x.product_bytes(sdk::Products(api, device), s) : 0;
  const double elements = static_cast<double>(s.m * s.n);
  sdk::set_estimate(out, static_cast<double>(s.segments) * (x.subspace.flops(kIterations) + 4 * elements * static_cast<double>(s.rank)),
                    static_cast<double>(s.segments * kIterations) * 8 * elements, static_cast<uint64_t>(s.bytes()), w.peak() + products);
}

void Codec::encode_calibrated(const tn_exec* exec, const tn_target& target, tn_tensor& src, const tn_tensor& statistic, int64_t,
                              tn_tensor* const* components, const tn_rng* rng) const {
  const Sizes s(target, options_);
  const Parts parts(s, components);
  require_all(s, parts);
  sdk::check_source(target, src, s.m * s.n);
  const float* given = sdk::contiguous<float>(&src, "bitstack: the weight");
  float* norms = sdk::contiguous<float>(&statistic, "bitstack: the statistic");
  if (sdk::count(statistic) != s.n)
    sdk::fail(TN_E_ARGUMENT, sdk::name_of(target) + ": the statistic of a weight with " + std::to_string(s.n) + " inputs has that many norms");
  sdk::OnHost<float> seen(exec, norms, s.n);
  for (int64_t j = 0; j < s.n; ++j)
    if (!sdk::is_finite(seen[j]) || seen[j] < 0)
      sdk::fail(TN_E_NUMERIC, sdk::name_of(target) + ": the calibration text drives this layer's inputs to NaN or Inf; use --dtype f32 or other text");
  if (s.m * s.n == 0) return;
  sdk::Workspace space(*exec);
  const Scratch x(space, s);
  const sdk::Products product(exec->api, exec->device, exec->stream, space.behind(x.products), space.bytes_behind(x.products));
  sdk::copy_values(exec, given, x.residual, s.m * s.n);
  stack(exec, product, target, s, x, norms, rng ? *rng : tn_rng{}, parts);
}

}  // namespace tenon::bitstack
