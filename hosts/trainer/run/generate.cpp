#include "hosts/trainer/run/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "hosts/trainer/random.h"

namespace tenon::trainer {
namespace {

// A uniform number for each token, whatever came before.
double uniform(uint64_t seed, uint64_t position) { return static_cast<double>(split_mix(seed + kSplitMixStep * (position + 1)) >> 11) * 0x1p-53; }

int32_t sample(const std::vector<float>& logits, const SamplingOptions& o, uint64_t position) {
  const auto best = std::max_element(logits.begin(), logits.end());
  if (o.temperature <= 0) return static_cast<int32_t>(best - logits.begin());
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  size_t kept = o.top_k > 0 ? std::min<size_t>(o.top_k, order.size()) : order.size();
  const auto likelier = [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
  if (o.top_p < 1 || kept < order.size()) std::partial_sort(order.begin(), order.begin() + kept, order.end(), likelier);
  std::vector<double> p(kept);
  double sum = 0;
  for (size_t i = 0; i < kept; ++i) sum += p[i] = std::exp((static_cast<double>(logits[order[i]]) - *best) / o.temperature);
  if (o.top_p < 1) {
    double mass = 0;
    size_t n = 0;
    while (n < kept && mass < o.top_p * sum) mass += p[n++];
    kept = std::max<size_t>(n, 1), sum = mass;
  }
  double u = uniform(o.seed, position) * sum;
  for (size_t i = 0; i < kept; ++i)
    if ((u -= p[i]) <= 0) return order[i];
  return order[kept - 1];
}

}  // namespace

std::vector<int32_t> generate(Model& model, const std::vector<int32_t>& prompt, const SamplingOptions& options,
                              const std::function<bool(int32_t)>& on_token) {
  if (prompt.empty()) throw Error(TN_E_ARGUMENT, "the prompt has no tokens; give it some text");
  std::vector<int32_t> out;
  model.start_cache(static_cast<int64_t>(prompt.size()) + options.max_new_tokens);
  std::vector<float> logits = model.feed(prompt);
  while (static_cast<int64_t>(out.size()) < options.max_new_tokens) {
    const bool numbers = std::none_of(logits.begin(), logits.end(), [](float l) { return std::isnan(l); });
    if (!numbers || !std::isfinite(*std::max_element(logits.begin(), logits.end())))
      throw Error(TN_E_NUMERIC, "the model's logits are not finite; its weights are damaged or --dtype is too narrow");
    const int32_t token = sample(logits, options, out.size());
    if (std::find(options.stop.begin(), options.stop.end(), token) != options.stop.end()) break;
    out.push_back(token);
    if (on_token && !on_token(token)) break;
    if (static_cast<int64_t>(out.size()) < options.max_new_tokens) logits = model.feed({token});
  }
  model.end_cache();
  return out;
}

}  // namespace tenon::trainer
