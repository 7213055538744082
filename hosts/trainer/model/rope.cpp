// Rotary frequencies and their scaled variants, as transformers computes them.
#include <algorithm>
#include <cmath>

#include "hosts/trainer/model/config.h"

namespace tenon::trainer {
namespace {

constexpr double kTwoPi = 6.283185307179586476925286766559;

// Llama 3: long wavelengths are divided by the factor, short ones kept, those between blended.
double llama3(const RopeScaling& s, double freq) {
  const double wavelength = kTwoPi / freq, length = static_cast<double>(s.original_length);
  if (wavelength < length / s.high_freq_factor) return freq;
  if (wavelength > length / s.low_freq_factor) return freq / s.factor;
  const double smooth = (length / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  return (1 - smooth) * freq / s.factor + smooth * freq;
}

double yarn_mscale(double scale, double mscale) { return scale <= 1 ? 1.0 : 0.1 * mscale * std::log(scale) + 1.0; }

// YaRN (Peng et al. 2023): a ramp between interpolated and original frequencies.
void yarn(const RopeScaling& s, double theta, int64_t d, std::vector<float>& inv, double& attention_scale) {
  const auto dim_of = [&](double rotations) {
    return d * std::log(static_cast<double>(s.original_length) / (rotations * kTwoPi)) / (2 * std::log(theta));
  };
  double low = dim_of(s.beta_fast), high = dim_of(s.beta_slow);
  if (s.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0), high = std::min(high, static_cast<double>(d - 1));
  if (low == high) high += 0.001;
  for (int64_t i = 0; i < d / 2; ++i) {
    const double freq = std::pow(theta, -2.0 * i / d);
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    inv[i] = static_cast<float>(freq / s.factor * ramp + freq * (1 - ramp));
  }
  if (s.attention_factor > 0)
    attention_scale = s.attention_factor;
  else if (s.mscale > 0 && s.mscale_all_dim > 0)
    attention_scale = yarn_mscale(s.factor, s.mscale) / yarn_mscale(s.factor, s.mscale_all_dim);
  else
    attention_scale = yarn_mscale(s.factor, 1);
}

}  // namespace

std::vector<float> ModelConfig::inverse_frequencies(int64_t length, double& attention_scale) const {
  std::vector<float> inv(head_dim / 2);
  attention_scale = 1;
  double theta = rope_theta;
  if (rope.kind == RopeKind::kYarn) {
    yarn(rope, theta, head_dim, inv, attention_scale);
    return inv;
  }
  if (rope.kind == RopeKind::kDynamic && length > max_positions) {
    const double stretched = rope.factor * static_cast<double>(length) / static_cast<double>(max_positions) - (rope.factor - 1);
    theta *= std::pow(stretched, static_cast<double>(head_dim) / static_cast<double>(head_dim - 2));
  }
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    double freq = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    if (rope.kind == RopeKind::kLinear) freq /= rope.factor;
    if (rope.kind == RopeKind::kLlama3) freq = llama3(rope, freq);
    inv[i] = static_cast<float>(freq);
  }
  return inv;
}

}  // namespace tenon::trainer
