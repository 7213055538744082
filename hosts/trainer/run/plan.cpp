#include "hosts/trainer/run/plan.h"

#include <algorithm>
#include <functional>

#include "core/error.h"
#include "hosts/trainer/run/evaluate.h"
#include "hosts/trainer/run/inference.h"

namespace tenon::trainer {

namespace {
constexpr int64_t kForeseenSteps = 10000, kForeseenChoices = 64;
constexpr int64_t kSlice = 512;  // the default of --streambp and --seco

}  // namespace

int64_t evaluation_rows(int64_t sequence) { return std::max<int64_t>(1, 1024 / std::max<int64_t>(sequence, 1)); }

RunMemory plan_run(const Runtime& runtime, const ModelSource& source, const SessionOptions& options, const RunShape& shape, tn_dtype compute) {
  const auto engine = runtime.engine(compute, 0, true);  // outlives the adapters' parameters
  const auto host = runtime.host_engine(true);
  const auto set = runtime.instantiate();
  RunMemory planned;
  {
    Session session(*engine, source, set->techniques, options, host.get());
    if (options.train) {
      // Two micro-batches have the peak of any greater number: the second meets gradients that the first left.
      const std::vector<HostBatch> micro(std::min<int64_t>(options.accumulate, 2), shape_batch(shape.batch, shape.sequence, source.config().vocab));
      session.step(1, shape.steps, micro, 1e-3);
      // An optimizer that chooses what trains needs more in some steps than in others: its first choices are rehearsed.
      int64_t rehearsed = 0;
      for (int64_t step = 2; step <= std::min(shape.steps, kForeseenSteps) && rehearsed < kForeseenChoices; ++step) {
        if (!session.plan(step, shape.steps)) continue;
        session.step(step, shape.steps, micro, 1e-3);
        ++rehearsed;
      }
    }
    if (shape.evaluates || !options.train)
      session.model().evaluate(shape_batch(evaluation_rows(shape.sequence), shape.sequence, source.config().vocab), nullptr, evaluation_options(options.memory));
    planned.offloaded = session.offloaded_bytes();
  }
  static_cast<MemoryUse&>(planned) = engine->memory().use();
  return planned;
}

std::vector<Alternative> what_would_fit(const Runtime& runtime, const ModelSource& source, const SessionOptions& options, const RunShape& shape,
                                        tn_dtype compute, uint64_t limit) {
  struct Change {
    std::string flags;
    std::function<void(SessionOptions&, RunShape&, tn_dtype&)> apply;
  };
  const auto bf16 = [](SessionOptions& o, tn_dtype& c) { o.storage = c = kBF16; };
  std::vector<Change> changes;
  const bool in_rows = options.memory.stream_rows > 0 || options.memory.chunk_rows > 0;  // which excludes policies, and has tiles of its own
  const auto checkpoint = [](SessionOptions& o) {
    if (o.memory.checkpointing == Checkpointing::kNone) o.memory.checkpointing = Checkpointing::kFlashCut;
  };
  const auto thrifty = [=](SessionOptions& o) {
    if (!in_rows) checkpoint(o), o.memory.tiled_mlp = true;
  };
  const std::string flags = in_rows ? "" : "--grad-checkpoint --tiled-mlp ";
  if (!in_rows)
    changes = {{"--grad-checkpoint", [=](SessionOptions& o, RunShape&, tn_dtype&) { checkpoint(o); }},
               {"--grad-checkpoint --tiled-mlp", [=](SessionOptions& o, RunShape&, tn_dtype&) { thrifty(o); }}};
  changes.push_back({flags + "--dtype bf16", [=](SessionOptions& o, RunShape&, tn_dtype& c) { thrifty(o), bf16(o, c); }});
  if (!options.fused_backward && options.clip == 0 && options.accumulate == 1)
    changes.push_back({flags + "--dtype bf16 --fused-backward", [=](SessionOptions& o, RunShape&, tn_dtype& c) { thrifty(o), bf16(o, c), o.fused_backward = true; }});
  changes.push_back({flags + "--dtype bf16 --batch-size 1", [=](SessionOptions& o, RunShape& s, tn_dtype& c) { thrifty(o), bf16(o, c), s.batch = 1; }});
  std::vector<Alternative> fitting;
  Alternative smallest;
  for (const Change& change : changes) {
    SessionOptions o = options;
    RunShape s = shape;
    tn_dtype c = compute;
    change.apply(o, s, c);
    const uint64_t bytes = plan_run(runtime, source, o, s, c).total_peak;
    if (bytes <= limit) fitting.push_back({change.flags, bytes});
    if (smallest.flags.empty() || bytes < smallest.bytes) smallest = {change.flags, bytes};
  }
  if (fitting.empty()) fitting.push_back(smallest);
  return fitting;
}

int64_t longest_sequence(const Runtime& runtime, const ModelSource& source, const SessionOptions& options, const RunShape& shape, tn_dtype compute,
                         uint64_t limit) {
  constexpr int64_t kStep = 16;
  const auto fits = [&](int64_t units) {
    SessionOptions o = options;
    RunShape s = shape;
    o.sequence = s.sequence = units * kStep;
    return plan_run(runtime, source, o, s, compute).total_peak <= limit;
  };
  int64_t low = 0, high = 1;  // in steps; low fits, high does not
  for (; high * kStep <= kLongestSequence && fits(high); high *= 2) low = high;
  high = std::min(high, kLongestSequence / kStep + 1);
  while (high - low > std::max<int64_t>(1, low / 128)) {
    const int64_t middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return low * kStep;
}

std::vector<LongestWith> longest_by_schedule(const Runtime& runtime, const ModelSource& source, const SessionOptions& options, const RunShape& shape,
                                             tn_dtype compute, uint64_t limit) {
  const std::pair<const char*, std::function<void(MemoryOptions&)>> schedules[] = {
      {"(every activation kept)", [](MemoryOptions&) {}},
      {"--grad-checkpoint block", [](MemoryOptions& m) { m.checkpointing = Checkpointing::kBlock; }},
      {"--grad-checkpoint block --tiled-mlp", [](MemoryOptions& m) { m.checkpointing = Checkpointing::kBlock, m.tiled_mlp = true; }},
      {"--seco", [](MemoryOptions& m) { m.chunk_rows = kSlice; }},
      {"--streambp", [](MemoryOptions& m) { m.stream_rows = kSlice; }},
      {"--streambp --act-offload", [](MemoryOptions& m) { m.stream_rows = kSlice, m.offload = Offload::kAuto; }}};
  std::vector<LongestWith> all;
  for (const auto& [flags, apply] : schedules) {
    SessionOptions o = options;
    o.memory = {}, o.memory.loss_tile_bytes = options.memory.loss_tile_bytes;
    apply(o.memory);
    all.push_back({flags, longest_sequence(runtime, source, o, shape, compute, limit)});
  }
  return all;
}

}  // namespace tenon::trainer
