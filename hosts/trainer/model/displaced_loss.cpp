#include "hosts/trainer/model/displaced_loss.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace tenon::trainer {
namespace {

constexpr int64_t kLeastColumns = 64;  // of a panel of logits, so that its product stays one of matrices
constexpr double kNothing = -std::numeric_limits<double>::infinity();

double log_of_sum(double a, double b) {
  const double most = std::max(a, b);
  return most == kNothing ? most : most + std::log1p(std::exp(std::min(a, b) - most));
}

}  // namespace

double displaced_loss(Engine& engine, const Parameter& weight, int64_t rows, const std::function<Tensor(int64_t, int64_t)>& hidden, const Tensor& labels, int64_t room,
                      std::vector<double>* losses) {
  const int64_t vocab = weight.value.dim(0), n = weight.value.dim(1), numbers = room / element_bytes(kF32);
  const int64_t tile = std::clamp<int64_t>(numbers / std::min(kLeastColumns, vocab), 1, rows);
  const int64_t step = std::clamp<int64_t>(std::min(kDisplacedPanelBytes / (n * element_bytes(weight.value.dtype())), numbers / tile), 1, vocab);
  std::vector<int32_t> label(static_cast<size_t>(rows)), place(static_cast<size_t>(tile));
  engine.download(labels, label.data());
  std::vector<double> all(static_cast<size_t>(rows), kNothing), own(static_cast<size_t>(rows)), nats(static_cast<size_t>(tile));
  std::vector<float> first(static_cast<size_t>(tile));
  for (int64_t r = 0; r < rows; r += tile) {
    const int64_t t = std::min(tile, rows - r);
    const Tensor h = hidden(r, r + t), panel = engine.empty(Category::kWorkspace, weight.value.dtype(), {step, n}),
                 tile_logits = engine.empty(Category::kActivations, kF32, {t, step}), tile_nats = engine.empty(Category::kActivations, kF64, {t}),
                 column = engine.empty(Category::kActivations, kF32, {t, 1}), places = engine.empty(Category::kActivations, kI32, {t});
    for (int64_t v = 0; v < vocab; v += step) {
      const int64_t width = std::min(step, vocab - v);
      const Tensor w = panel.rows(0, width), logits = tile_logits.columns(0, width);
      weight.displaced->read(engine, weight.uid, weight.value, v * n, w);
      engine.gemm(h, w.transposed(), logits);
      // The log of a panel's sum: the loss that its first column would have, and that column's logit.
      const auto ask = [&] {
        engine.upload(place.data(), places);
        engine.cross_entropy(logits, places, 0, &tile_nats);
        engine.download(tile_nats, nats.data());
      };
      std::fill(place.begin(), place.end(), 0);
      ask();
      engine.axpby(1, logits.columns(0, 1), 0, column);
      engine.download(column, first.data());
      const std::vector<double> of_first = nats;
      for (int64_t i = 0; i < t; ++i) {
        const int64_t at = label[r + i] - v;
        place[i] = label[r + i] >= 0 && at >= 0 && at < width ? static_cast<int32_t>(at) : -1;
      }
      ask();
      for (int64_t i = 0; i < t; ++i) {
        const double sum = of_first[i] + static_cast<double>(first[i]);
        all[r + i] = std::isnan(sum) ? sum : log_of_sum(all[r + i], sum);
        if (place[i] >= 0) own[r + i] = sum - nats[i];
      }
    }
  }
  for (int64_t i = 0; i < rows; ++i) all[i] = label[i] >= 0 ? all[i] - own[i] : 0;
  if (losses) losses->insert(losses->end(), all.begin(), all.end());
  return std::accumulate(all.begin(), all.end(), 0.0);
}

}  // namespace tenon::trainer
