// The stack is made: signs, then the dominant part of the magnitudes, then the same of what is left.
#include "quantizers/bitstack/codec.h"
#include "sdk/linalg/subspace.h"

namespace tenon::bitstack {
namespace {

// Of the subspace. Magnitudes have one large singular value and a flat rest, of which a near miss costs nothing; from the second segment on the
// search begins where the one before ended, as rows and columns that were large leave large residuals.
constexpr int kFirstIterations = 3, kIterations = 3;
constexpr float kLeastNorm = 1e-3f;  // added to every input's norm

struct Scratch {
  float *residual, *magnitude;  // [m, n]
  float *left, *right;          // [m, rank], [n, rank]
  float *u, *v;                 // the factors as they are stored: [m, rank], [rank, n]
  sdk::Subspace subspace;
  uint64_t products;  // offset of the products' own workspace

  Scratch(sdk::Workspace& w, const Sizes& s)
      : residual(w.take<float>(s.m * s.n)),
        magnitude(w.take<float>(s.m * s.n)),
        left(w.take<float>(s.m * s.rank)),
        right(w.take<float>(s.n * s.rank)),
        u(w.take<float>(s.m * s.rank)),
        v(w.take<float>(s.rank * s.n)),
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
  sdk::for_each_block(exec, s.m, [=, &s](const sdk::Block& row) {
    float* residual = x.residual + row.index * s.n;
    float* magnitude = x.magnitude + row.index * s.n;
    if (!first)
      row.each(s.n, [=](int64_t j) { residual[j] -= residual[j] >= 0 ? magnitude[j] : -magnitude[j]; });
    row.each(s.n, [=](int64_t j) { magnitude[j] = std::fabs(residual[j]); });
    uint8_t* bits = signs + row.index * s.sign_row;
    for (int64_t b = 0; b < s.sign_row; ++b) {
      uint32_t byte = 0;
      const float* from = residual + 8 * b;
      if (8 * b + 8 <= s.n) {
#pragma GCC unroll 8
        for (uint32_t k = 0; k < 8; ++k) byte |= static_cast<uint32_t>(from[k] >= 0) << (7 - k);
      } else {
        for (int64_t k = 0; 8 * b + k < s.n; ++k) byte |= static_cast<uint32_t>(from[k] >= 0) << (7 - k);
      }
      bits[b] = static_cast<uint8_t>(byte);
    }
  }, s.n);
}

// The magnitudes' dominant part as two factors, each with the root of the singular values, in f16; u and v hold what f16 holds.
void take_factors(const tn_exec* exec, const sdk::Products& product, const tn_target& target, const Sizes& s, const Scratch& x, const tn_rng& rng,
                  int64_t segment, sdk::f16* u, sdk::f16* v) {
  double captured = 0;
  const uint64_t draws = static_cast<uint64_t>(segment * s.n * x.subspace.l);
  const bool warm = segment > 0;
  if (!sdk::find_subspace(exec, product, x.subspace, x.a(s), warm ? x.right : nullptr, rng, draws, warm ? kIterations : kFirstIterations, x.right, &captured))
    sdk::fail(TN_E_NUMERIC, sdk::name_of(target) + ": what " + std::to_string(segment) + " segments leave of this weight cannot be factored");
  product(1, x.a(s), sdk::Matrix::dense(x.right, s.n, s.rank), 0, sdk::Matrix::dense(x.left, s.m, s.rank));
  double squares[64] = {};  // of a column of left: of a singular value
  for (int64_t i = 0; i < s.m; ++i)
    for (int64_t k = 0; k < s.rank; ++k) squares[k] += static_cast<double>(x.left[i * s.rank + k]) * x.left[i * s.rank + k];
  float root[64], inverse[64];
  for (int64_t k = 0; k < s.rank; ++k) {
    root[k] = static_cast<float>(std::sqrt(std::sqrt(squares[k])));
    inverse[k] = root[k] > 0 ? 1 / root[k] : 0;
  }
  for (int64_t i = 0; i < s.m; ++i)
    for (int64_t k = 0; k < s.rank; ++k) x.u[i * s.rank + k] = x.left[i * s.rank + k] * inverse[k];
  for (int64_t j = 0; j < s.n; ++j)
    for (int64_t k = 0; k < s.rank; ++k) x.v[k * s.n + j] = x.right[j * s.rank + k] * root[k];
  sdk::convert(x.u, u, s.m * s.rank), sdk::convert(u, x.u, s.m * s.rank);
  sdk::convert(x.v, v, s.rank * s.n), sdk::convert(v, x.v, s.rank * s.n);
}

// x.residual holds the weight. norms: of the inputs, or null.
void stack(const tn_exec* exec, const sdk::Products& product, const tn_target& target, const Sizes& s, const Scratch& x, const float* norms,
           const tn_rng& rng, const Parts& parts) {
  sdk::require_finite(target, x.residual, s.m, s.n);
  double squares = 0;  // of the scaled weight: its numbers are brought to about 1, so that f16 holds the factors of any weight
  for (int64_t i = 0; i < s.m; ++i)
    for (int64_t j = 0; j < s.n; ++j) {
      const double w = static_cast<double>(x.residual[i * s.n + j]) * (norms ? norms[j] + kLeastNorm : 1);
      squares += w * w;
    }
  const double rms = std::sqrt(squares / std::max<double>(1, static_cast<double>(s.m * s.n)));
  for (int64_t j = 0; j < s.n; ++j) parts.columns[j] = static_cast<float>((rms > 0 ? rms : 1) / (norms ? norms[j] + kLeastNorm : 1));
  sdk::for_each_block(exec, s.m, [&](const sdk::Block& row) {
    float* w = x.residual + row.index * s.n;
    for (int64_t j = 0; j < s.n; ++j) w[j] = static_cast<float>(w[j] / static_cast<double>(parts.columns[j]));
  }, s.n);
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
  sdk::with_float_type(src.dtype, "bitstack: a tensor to quantize",
                       [&](auto type) { sdk::convert(sdk::data<const decltype(type)>(src), x.residual, s.m * s.n); });
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
  const float* norms = sdk::contiguous<float>(&statistic, "bitstack: the statistic");
  if (sdk::count(statistic) != s.n)
    sdk::fail(TN_E_ARGUMENT, sdk::name_of(target) + ": the statistic of a weight with " + std::to_string(s.n) + " inputs has that many norms");
  for (int64_t j = 0; j < s.n; ++j)
    if (!sdk::is_finite(norms[j]) || norms[j] < 0)
      sdk::fail(TN_E_NUMERIC, sdk::name_of(target) + ": the calibration text drives this layer's inputs to NaN or Inf; use --dtype f32 or other text");
  if (s.m * s.n == 0) return;
  sdk::Workspace space(*exec);
  const Scratch x(space, s);
  const sdk::Products product(exec->api, exec->device, exec->stream, space.behind(x.products), space.bytes_behind(x.products));
  std::memcpy(x.residual, given, static_cast<size_t>(s.m * s.n) * sizeof(float));
  stack(exec, product, target, s, x, norms, rng ? *rng : tn_rng{}, parts);
}

}  // namespace tenon::bitstack
