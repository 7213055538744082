#include "hosts/trainer/model/statistic.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/error.h"
#include "tenon/calibrate.h"

namespace tenon::trainer {

InputStatistic::InputStatistic(Engine& engine, uint32_t kind, int64_t n) : kind_(kind), n_(n) {
  if (kind == TN_STATISTIC_GRAM)
    value_ = engine.zeros(Category::kWorkspace, kF32, {n, n});
  else if (kind == TN_STATISTIC_NORMS)
    value_ = engine.empty(Category::kWorkspace, kF32, {n}), sums_.resize(static_cast<size_t>(n));
  else
    throw Error(TN_E_UNSUPPORTED, "the quantizer asks for the statistic " + std::to_string(kind) + ", which this version does not gather; update tenon");
}

void InputStatistic::add(Engine& engine, const Tensor& x) {
  const int64_t rows = x.dim(0);
  tokens_ += rows, ++sequences_;
  if (kind_ == TN_STATISTIC_GRAM) {
    // The upper triangle in panels: what lies below it is not promised to anybody.
    const int64_t panel = std::max<int64_t>(192, (n_ / 4 + 63) / 64 * 64);
    for (int64_t i = 0; i < n_; i += panel) {
      const int64_t end = std::min(i + panel, n_);
      engine.gemm(x.columns(i, end).transposed(), x.columns(i, n_), value_.rows(i, end).columns(i, n_), 1, 1);
    }
    return;
  }
  if (engine.dry()) return;
  std::vector<float> squares(static_cast<size_t>(n_));
  if (x.dtype() == kF32) {
    std::vector<float> host(static_cast<size_t>(x.count()));
    engine.download(x, host.data());
    for (int64_t t = 0; t < rows; ++t)
      for (int64_t j = 0; j < n_; ++j) squares[j] += host[t * n_ + j] * host[t * n_ + j];
  } else {
    std::vector<uint16_t> host(static_cast<size_t>(x.count()));
    engine.download(x, host.data());
    for (int64_t t = 0; t < rows; ++t)
      for (int64_t j = 0; j < n_; ++j) {
        const float v = std::bit_cast<float>(static_cast<uint32_t>(host[t * n_ + j]) << 16);
        squares[j] += v * v;
      }
  }
  for (int64_t j = 0; j < n_; ++j) sums_[j] += std::sqrt(static_cast<double>(squares[j]));
}

const Tensor& InputStatistic::finish(Engine& engine) {
  if (kind_ == TN_STATISTIC_NORMS && !engine.dry()) {
    std::vector<float> means;
    for (double sum : sums_) means.push_back(static_cast<float>(sum / static_cast<double>(std::max<int64_t>(sequences_, 1))));
    engine.upload(means.data(), value_);
    engine.synchronize();
  }
  return value_;
}

}  // namespace tenon::trainer
