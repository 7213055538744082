// The inverse of a Kronecker factor F ← γ F + (1 − γ) v v^T, kept up to date by the Sherman-Morrison formula.
#pragma once

#include <cmath>

#include "sdk/for_each.h"
#include "sdk/linalg/on_host.h"
#include "sdk/stored.h"

namespace tenon::sdk {

struct InverseSettings {
  float gamma, zeta, threshold, clip;
  bool reference;  // F' = γ F⁻¹ + (1 − γ) I, F⁻¹ ← F' − (F' v)(F' v)^T / (1 + v·F' v)
};

inline constexpr int64_t kScalars = 16;  // f32 of workspace before the partial sums

template <class T>
void set_identity(const tn_exec* exec, T* f, int64_t n) {
  for_each(exec, n * n, [=] TN_KERNEL(int64_t i) { f[i] = from_float<T>(i / n == i % n ? 1.0f : 0.0f); });
}
// A factor that no tap has filled yet is zero bytes; an inverse never has a zero on its diagonal.
template <class T>
void start_unless_observed(const tn_exec* exec, T* f, int64_t n) {
  if (to_float(value_of(exec, f)) == 0) set_identity(exec, f, n);
}

TN_FN float clipped(float x, float most) { return std::fmin(std::fmax(x, -most), most); }

// One rank-1 update with v (clipped here), then the stabiliser. p holds n floats; scalars kScalars + 2 n.
template <class T>
void update_inverse(const tn_exec* exec, const InverseSettings& s, T* f, int64_t n, const float* v, float* p, float* scalars) {
  float* const partial = scalars + kScalars;
  const float clip = s.clip, gamma = s.gamma;
  if (s.reference) for_each(exec, n * n, [=] TN_KERNEL(int64_t i) { f[i] = from_float<T>(gamma * to_float(f[i]) + (i / n == i % n ? 1 - gamma : 0.0f)); });
  for_each_block(exec, n, [=] TN_KERNEL(const Block& block) {  // p = F v, and v_i p_i
    const T* const row = f + block.index * n;
    p[block.index] = static_cast<float>(block.sum(n, [=](int64_t k) { return static_cast<double>(to_float(row[k])) * clipped(v[k], clip); }));
    partial[block.index] = clipped(v[block.index], clip) * p[block.index];
  }, n);
  for_each_block(exec, 1, [=] TN_KERNEL(const Block& block) {
    const double vp = block.sum(n, [=](int64_t i) { return static_cast<double>(partial[i]); });
    // How p p^T is weighed, and what the rest is divided by.
    scalars[0] = s.reference ? static_cast<float>(1 / (1 + vp)) : static_cast<float>((1 - gamma) / (gamma + (1 - gamma) * vp));
    scalars[1] = s.reference ? 1.0f : 1 / gamma;
  });
  for_each_block(exec, n, [=] TN_KERNEL(const Block& block) {
    T* const row = f + block.index * n;
    const float c = scalars[0] * p[block.index], grow = scalars[1];
    block.each(n, [=](int64_t k) { row[k] = from_float<T>(grow * std::fma(-c, p[k], to_float(row[k]))); });
    partial[block.index] = block.max(n, 0.0f, [=](int64_t k) { return std::fabs(to_float(row[k])); });
  }, n);
  for_each_block(exec, 1, [=] TN_KERNEL(const Block& block) { scalars[2] = block.max(n, 0.0f, [=](int64_t i) { return partial[i]; }); });
  const float zeta = s.zeta, threshold = s.threshold;
  for_each(exec, n * n, [=] TN_KERNEL(int64_t i) {
    const float x = to_float(f[i]), mixed = (1 - zeta) * x + (i / n == i % n ? zeta : 0.0f);
    f[i] = from_float<T>(scalars[2] > threshold ? mixed : x);
  });
}

// k ← k · |g| / |k|; g itself where either is zero. `spare` holds n floats, scalars kScalars + 2 chunks(n).
inline void match_length(const tn_exec* exec, Stored g, int64_t n, float* k, float* spare, float* scalars) {
  float* const partial = scalars + kScalars;
  const int64_t count = chunks(n);
  for_each_block<kChunk * sizeof(float)>(exec, count, [=] TN_KERNEL(const Block& block) {
    const Chunk chunk(block, n);
    const float* from = g.read(block, chunk, block.shared<float>());
    float* const to = spare + chunk.begin;
    const float* const mine = k + chunk.begin;
    block.each(chunk.n, [=](int64_t i) { to[i] = from[i]; });
    partial[2 * block.index] = static_cast<float>(block.sum(chunk.n, [=](int64_t i) { return static_cast<double>(to[i]) * to[i]; }));
    partial[2 * block.index + 1] = static_cast<float>(block.sum(chunk.n, [=](int64_t i) { return static_cast<double>(mine[i]) * mine[i]; }));
  }, kChunk);
  for_each_block(exec, 1, [=] TN_KERNEL(const Block& block) {
    const double gg = block.sum(count, [=](int64_t i) { return static_cast<double>(partial[2 * i]); });
    const double kk = block.sum(count, [=](int64_t i) { return static_cast<double>(partial[2 * i + 1]); });
    const double ratio = std::sqrt(gg / kk);
    scalars[3] = gg > 0 && kk > 0 && ratio < 1e30 ? static_cast<float>(ratio) : 0.0f;
  });
  for_each(exec, n, [=] TN_KERNEL(int64_t i) { k[i] = scalars[3] > 0 ? k[i] * scalars[3] : spare[i]; });
}

}  // namespace tenon::sdk
