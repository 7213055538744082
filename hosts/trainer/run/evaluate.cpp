#include "hosts/trainer/run/evaluate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "hosts/trainer/run/plan.h"

namespace tenon::trainer {

HostBatch to_host_batch(const Batch& batch, bool isolate) {
  HostBatch h;
  h.sequences = batch.rows, h.length = batch.length;
  h.ids = batch.tokens, h.labels = batch.targets;
  h.positions.resize(h.ids.size());
  for (int64_t r = 0; r < batch.rows; ++r) {
    int32_t* positions = h.positions.data() + r * batch.length;
    if (!isolate) {
      std::iota(positions, positions + batch.length, 0);
      continue;
    }
    const std::vector<int32_t>& starts = batch.segment_starts[r];
    for (size_t s = 0; s < starts.size(); ++s) {
      const int64_t begin = starts[s], end = s + 1 < starts.size() ? starts[s + 1] : batch.length;
      std::iota(positions + begin, positions + end, 0);
      h.segments.begin.push_back(r * batch.length + begin), h.segments.length.push_back(end - begin);
    }
  }
  return h;
}

MemoryOptions evaluation_options(const MemoryOptions& memory) {
  MemoryOptions m;
  m.stream_rows = std::max(memory.stream_rows, memory.chunk_rows);
  return m;
}

namespace {

Evaluation finished(Evaluation e, double nats, const Dataset& data) {
  if (e.tokens == 0) throw Error(TN_E_ARGUMENT, data.source() + ": no token of it is to be predicted; the answers are empty or the windows too short");
  e.loss = nats / static_cast<double>(e.tokens);
  e.perplexity = std::exp(e.loss);
  return e;
}

}  // namespace

Evaluation evaluate(Model& model, const Dataset& data, bool isolate, const std::function<void(size_t, size_t)>& progress, const MemoryOptions& memory) {
  const size_t rows = static_cast<size_t>(evaluation_rows(data.length()));
  Evaluation e;
  double nats = 0;
  for (size_t w = 0; w < data.size(); w += rows) {
    std::vector<uint64_t> windows(std::min(rows, data.size() - w));
    std::iota(windows.begin(), windows.end(), w);
    const Batch batch = data.batch(windows);
    nats += model.evaluate(to_host_batch(batch, isolate), nullptr, memory);
    e.tokens += batch.predicted;
    if (progress) progress(w + windows.size(), data.size());
  }
  return finished(e, nats, data);
}

Evaluation evaluate_cached(Model& model, const Dataset& data, int64_t step, const std::function<void(size_t, size_t)>& progress) {
  Evaluation e;
  double nats = 0;
  for (size_t w = 0; w < data.size(); ++w) {
    const Batch batch = data.batch({w});
    model.start_cache(batch.length);
    for (int64_t at = 0; at < batch.length; at += step) {
      const int64_t end = std::min(at + step, batch.length);
      nats += model.score({batch.tokens.begin() + at, batch.tokens.begin() + end}, {batch.targets.begin() + at, batch.targets.begin() + end});
    }
    model.end_cache();
    e.tokens += batch.predicted;
    if (progress) progress(w + 1, data.size());
  }
  return finished(e, nats, data);
}

}  // namespace tenon::trainer
