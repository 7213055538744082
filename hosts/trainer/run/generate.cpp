#include "hosts/trainer/run/generate.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "hosts/trainer/random.h"

namespace tenon::trainer {
namespace {

// A uniform number for each token, whatever came before.
double uniform(uint64_t seed, uint64_t position) { return static_cast<double>(split_mix(seed + kSplitMixStep * (position + 1)) >> 11) * 0x1p-53; }

// f32 in the order of whole numbers: NaN lies beyond the infinities, on both sides.
int32_t ordered(float x) {
  const int32_t bits = std::bit_cast<int32_t>(x);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

// The place of the largest logit, the first of equals.
size_t likeliest(const std::vector<float>& logits) {
  constexpr size_t kRun = 1024;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  int32_t top = std::numeric_limits<int32_t>::min(), low = std::numeric_limits<int32_t>::max();
  size_t run = 0;
  for (size_t begin = 0; begin < logits.size(); begin += kRun) {
    const size_t end = std::min(begin + kRun, logits.size());
    int32_t most = std::numeric_limits<int32_t>::min(), least = std::numeric_limits<int32_t>::max();
    for (size_t i = begin; i < end; ++i) {
      const int32_t x = ordered(logits[i]);
      most = std::max(most, x), least = std::min(least, x);
    }
    if (most > top) top = most, run = begin;
    low = std::min(low, least);
  }
  if (top >= ordered(kInfinity) || top <= ordered(-kInfinity) || low < ordered(-kInfinity))
    throw Error(TN_E_NUMERIC, "the model's logits are not finite; its weights are damaged or --dtype is too narrow");
  size_t at = run;
  while (ordered(logits[at]) != top) ++at;
  return at;
}

int32_t sample(const std::vector<float>& logits, const SamplingOptions& o, uint64_t position) {
  const size_t first = likeliest(logits);
  if (o.temperature <= 0) return static_cast<int32_t>(first);
  const float best = logits[first];
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto likelier = [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
  if (o.top_k > 0 && static_cast<size_t>(o.top_k) < order.size()) {
    std::partial_sort(order.begin(), order.begin() + o.top_k, order.end(), likelier);
    order.resize(static_cast<size_t>(o.top_k));
  }
  std::vector<double> p(order.size());  // of the tokens in `order`
  double sum = 0;
  for (size_t i = 0; i < order.size(); ++i) sum += p[i] = std::exp((static_cast<double>(logits[order[i]]) - best) / o.temperature);
  if (o.top_p < 1) {
    // The likeliest leave a heap one by one until they carry the mass: few of a vocabulary do.
    std::vector<size_t> heap(order.size());
    std::iota(heap.begin(), heap.end(), size_t{0});
    const auto less = [&](size_t a, size_t b) { return likelier(order[b], order[a]); };
    std::make_heap(heap.begin(), heap.end(), less);
    std::vector<int32_t> kept;
    std::vector<double> carried;
    double mass = 0;
    do {
      std::pop_heap(heap.begin(), heap.end(), less);
      kept.push_back(order[heap.back()]), carried.push_back(p[heap.back()]);
      mass += carried.back();
      heap.pop_back();
    } while (!heap.empty() && mass < o.top_p * sum);
    order = std::move(kept), p = std::move(carried), sum = mass;
  }
  double u = uniform(o.seed, position) * sum;
  for (size_t i = 0; i < order.size(); ++i)
    if ((u -= p[i]) <= 0) return order[i];
  return order.back();
}

}  // namespace

std::vector<int32_t> generate(Model& model, const std::vector<int32_t>& prompt, const SamplingOptions& options,
                              const std::function<bool(int32_t)>& on_token) {
  if (prompt.empty()) throw Error(TN_E_ARGUMENT, "the prompt has no tokens; give it some text");
  std::vector<int32_t> out;
  model.start_cache(static_cast<int64_t>(prompt.size()) + options.max_new_tokens);
  std::vector<float> logits = model.feed(prompt);
  while (static_cast<int64_t>(out.size()) < options.max_new_tokens) {
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
