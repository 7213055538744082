#include "hosts/trainer/run/train.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/atomic_file.h"
#include "core/files/atomic_folder.h"
#include "hosts/trainer/run/calibration.h"
#include "hosts/trainer/run/checkpoint.h"
#include "hosts/trainer/run/export.h"
#include "hosts/trainer/run/metrics.h"
#include "hosts/trainer/run/quantized_export.h"
#include "hosts/trainer/text/byte_tokenizer.h"
#include "hosts/trainer/text/tokenizer/tokenizer_files.h"

namespace tenon::trainer {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int64_t kSkippedInARow = 25;  // steps after which a run that skips every step ends

double seconds_since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

bool holds_run(const std::string& output) {
  std::error_code ec;
  return fs::exists(fs::path(output) / "metrics.jsonl", ec) || newest_checkpoint(output).has_value();
}

// What can be said of the output folder without making it: whether it could be, and that it holds no other run by accident.
void check_output(const TrainOptions& o) {
  std::error_code ec;
  fs::path there = fs::absolute(o.output, ec);
  while (!fs::exists(there, ec) && there.has_relative_path()) there = there.parent_path();
  if (!fs::is_directory(there, ec) || access(there.c_str(), W_OK | X_OK) != 0)
    throw Error(TN_E_IO, "--output " + o.output + " cannot be made or written; choose a folder that you may write");
  if (!o.resume && !o.overwrite && holds_run(o.output))
    throw Error(TN_E_CONFLICT, "--output " + o.output + " already holds a run; pass --resume to go on with it, --overwrite to replace it, or choose another folder");
}

// Makes the folder once nothing else can refuse the run, and empties it of one that is to be replaced.
void prepare_output(const TrainOptions& o) {
  std::error_code ec;
  fs::create_directories(o.output, ec);
  if (ec || !fs::is_directory(o.output))
    throw Error(TN_E_IO, "--output " + o.output + " cannot be made: " + ec.message() + "; choose a folder that you may write");
  if (o.resume || !holds_run(o.output)) return;
  for (const auto& entry : fs::directory_iterator(o.output, ec)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("checkpoint-") || name == "metrics.jsonl" || name == "final" || name == "report.html") fs::remove_all(entry.path(), ec);
  }
}

std::string number(double x) {
  char text[40];
  std::snprintf(text, sizeof text, "%.4g", x);
  return text;
}

// Everything that the numbers of a run depend on. Where they are computed and what is kept in memory may change between its parts.
RunIdentity identity_of(const Runtime& runtime, const ModelSource& source, const TextModel& text, const Techniques& techniques, const TrainOptions& o) {
  RunIdentity id;
  id.plugins = runtime.plugin_versions();
  auto& s = id.settings;
  const auto name = [](const std::string& text) {
    const fs::path path = fs::path(text).lexically_normal();
    return (path.has_filename() ? path : path.parent_path()).filename().string();
  };
  s["model"] = name(source.path()), s["data"] = name(o.data);
  s["optimizer"] = runtime.canonical_spec(TN_KIND_OPTIMIZER), s["adapter"] = runtime.canonical_spec(TN_KIND_ADAPTER);
  s["quantizer"] = runtime.canonical_spec(TN_KIND_QUANTIZER), s["attention"] = runtime.canonical_spec(TN_KIND_ATTENTION);
  s["--activations"] = runtime.site_spec(TN_SITE_ACTIVATION, canonical), s["--states"] = runtime.site_spec(TN_SITE_OPTIMIZER_STATE, canonical);
  s["--dtype"] = o.session.storage == kF32 ? "f32" : "bf16";
  s["--batch-size"] = std::to_string(o.batch), s["--seq-len"] = std::to_string(o.session.sequence);
  s["--accumulate"] = std::to_string(o.session.accumulate), s["--seed"] = std::to_string(o.session.seed);
  s["--order"] = o.order == Order::kSequential ? "sequential" : "shuffled";
  s["--weight-update"] = std::to_string(static_cast<int>(o.session.update));
  const auto number = [](double x) {
    char digits[40];
    return std::string(digits, std::to_chars(digits, digits + sizeof digits, x).ptr);
  };
  const auto flag = [](bool set) { return set ? "on" : "off"; };
  s["tokenizer"] = name(text.path), s["--embeddings"] = runtime.embeddings_spec();
  s["--calibration"] = runtime.calibrates() ? name(o.calibration.empty() ? o.data : o.calibration) : "";
  s["--held-out"] = number(o.evaluation_data.empty() ? o.held_out : 0), s["--no-pack"] = flag(!o.windows.pack), s["--isolate-documents"] = flag(o.isolate_documents);
  s["--lr"] = number(o.schedule.lr), s["--lr-floor"] = number(o.schedule.floor), s["--schedule"] = schedule_name(o.schedule.kind);
  s["--warmup"] = number(o.warmup_share > 0 ? o.warmup_share : static_cast<double>(o.schedule.warmup)), s["--clip"] = number(o.session.clip);
  const MemoryOptions& m = o.session.memory;
  s["--spaco"] = m.chunks_picked == 0 ? "off" : std::to_string(m.chunks_picked) + " of chunks of " + std::to_string(m.chunk_rows);
  s["--spaco-clip"] = number(m.spaco_clip), s["--weight-budget"] = std::to_string(techniques.weight_budget);
  if (o.schedule.kind != ScheduleKind::kConstant) s["--steps"] = std::to_string(o.steps);
  id.changeable = o.changed_rates;
  return id;
}

void refuse_over_limit(const Runtime& runtime, const ModelSource& source, const TrainOptions& o, const RunShape& shape, uint64_t planned) {
  const auto ways = what_would_fit(runtime, source, o.session, shape, o.compute, o.memory_limit);
  std::string sentence = "this run needs " + format_bytes(planned) + " of memory, more than --memory-limit " + format_bytes(o.memory_limit);
  if (ways[0].bytes <= o.memory_limit)
    sentence += "; with " + ways[0].flags + " it needs " + format_bytes(ways[0].bytes);
  else
    sentence += "; even with " + ways[0].flags + " it needs " + format_bytes(ways[0].bytes) + ", so use a smaller model or --seq-len, or an adapter over --quantizer nf4";
  throw Error(TN_E_MEMORY, sentence);
}

nlohmann::json metrics_line(const StepResult& r, double seconds) {
  nlohmann::json line{{"step", r.step}, {"loss", r.loss}, {"lr", r.lr}, {"grad_norm", r.grad_norm}, {"tokens", r.tokens}, {"seconds", seconds}};
  if (r.skipped) line["skipped"] = r.note;
  if (r.batch_multiplier != 1) line["advised_batch_multiplier"] = r.batch_multiplier;
  for (const auto& [key, value] : r.metrics) line["optimizer." + key] = value;
  return line;
}

// The tokenizer that a model was trained with where it has none of its own beside it, or was given another.
void write_tokenizer(const std::string& folder, const TextModel& text) {
  std::error_code ignored;
  if (text.path.empty()) {
    write_file_atomically((fs::path(folder) / "tokenizer.json").string(), byte_tokenizer_json());
  } else if (fs::is_directory(text.path, ignored)) {
    copy_tokenizer_files(text.path, nullptr, folder);
  } else {
    const GgufFile file = GgufFile::open(text.path);
    copy_tokenizer_files(text.path, &file, folder);
  }
}

void write_final(const std::string& output, Session& session, const ModelSource& source, const TextModel& text, const Runtime& runtime) {
  AtomicFolder folder((fs::path(output) / "final").string());
  const bool own = text.path == source.path();  // the tokenizer is the model's, not one of the user's choice
  const Quantizer* quantizer = session.techniques().quantizer;
  if (session.techniques().tunes_scales && quantizer && quantizer->trainable) {  // the codes are worth keeping, scales and all
    fill_quantized_folder(folder.path(), session.engine(), weights_of(session, false), source, runtime, *quantizer, session.options().storage, FolderForm::kLayout);
    if (!own) write_tokenizer(folder.path(), text);
  } else if (session.adapters().empty()) {
    write_model(folder.path(), session, source, session.options().storage, false, own);
    if (!own) write_tokenizer(folder.path(), text);
  } else {
    for (const Adapter* a : session.adapters()) {
      std::string where = folder.path();
      if (a->name != "default") fs::create_directory(where = (fs::path(where) / a->name).string());
      write_adapter(where, session, *a, source.path());
    }
    if (!own && !text.path.empty()) write_tokenizer(folder.path(), text);
  }
  folder.commit_replacing();
}

}  // namespace

TrainResult train(Runtime& runtime, const ModelSource& source, const TextModel& text, const TrainOptions& options, const TrainEvents& events) {
  TrainOptions o = options;
  const auto note = [&](const std::string& line) {
    if (events.note) events.note(line);
  };
  // What is cheapest to be wrong comes first.
  check_output(o);
  Documents documents = read_documents(o.data, text);
  std::optional<Dataset> held_out;
  std::optional<Dataset> data;
  if (!o.evaluation_data.empty()) {
    WindowOptions keep = o.windows;
    keep.keep_short = true;
    held_out.emplace(read_documents(o.evaluation_data, text), keep);
    data.emplace(std::move(documents), o.windows);
  } else if (o.held_out > 0) {
    auto parts = Dataset::split(std::move(documents), o.windows, o.held_out, o.session.seed);
    data.emplace(std::move(parts.first)), held_out.emplace(std::move(parts.second));
  } else {
    data.emplace(std::move(documents), o.windows);
  }
  BatchOrder order(data->size(), o.batch, o.session.accumulate, o.order, o.session.seed, o.data);
  if (o.steps == 0) o.steps = std::max<int64_t>(1, static_cast<int64_t>(std::ceil(o.epochs * static_cast<double>(order.batches_per_epoch()) / static_cast<double>(o.session.accumulate))));
  o.schedule.total = o.steps;
  if (o.warmup_share > 0) o.schedule.warmup = std::llround(o.warmup_share * static_cast<double>(o.steps));

  if (runtime.calibrates()) o.session.calibration = read_calibration(runtime, o.calibration.empty() ? o.data : o.calibration, text);

  TrainResult result;
  const RunShape shape{o.batch, o.session.sequence, held_out.has_value(), o.steps};
  result.planned = plan_run(runtime, source, o.session, shape, o.compute);
  if (events.planned) events.planned(result.planned);
  if (o.memory_limit > 0 && result.planned.total_peak > o.memory_limit) refuse_over_limit(runtime, source, o, shape, result.planned.total_peak);
  prepare_output(o);

  const auto engine = runtime.engine(o.compute, o.memory_limit, false);  // outlives the adapters' parameters
  const auto host_engine = runtime.host_engine(false);
  const auto set = runtime.instantiate();
  if (runtime.gains_nothing_from_zero_offload())
    note(runtime.device_info().name + std::string(" computes in host memory, where gradients, optimizer states and updates are as it is: --zero-offload changes nothing"));
  o.session.calibrating = events.calibrating;
  Session session(*engine, source, set->techniques, o.session, host_engine.get());
  result.trainable_parameters = session.trainable_parameters();
  const RunIdentity identity = identity_of(runtime, source, text, set->techniques, o);
  int64_t done = 0;
  if (o.resume) {
    if (const auto checkpoint = newest_checkpoint(o.output)) {
      std::vector<std::string> warnings;
      done = load_checkpoint(*checkpoint, session, identity, warnings);
      for (const std::string& w : warnings) note(w);
      note("resumed after step " + std::to_string(done));
    } else {
      note("no checkpoint in " + o.output + "; starting from the beginning");
    }
  }
  if (done == 0)
    for (Adapter* a : set->techniques.adapters)
      if (const std::string folder = runtime.adapter_folder(a->index); !folder.empty()) read_adapter(session, *a, folder);
  if (events.ready) events.ready(session, done);

  MetricsFile metrics((fs::path(o.output) / "metrics.jsonl").string(), done);
  for (const auto& line : metrics.kept())
    if (line.contains("loss") && line["loss"].is_number()) result.last_loss = line["loss"].get<double>();
  const auto evaluate_now = [&](int64_t step) {
    if (!held_out) return;
    result.evaluations.push_back({step, evaluate(session.model(), *held_out, o.isolate_documents, {}, evaluation_options(o.session.memory))});
    const EvaluationPoint& point = result.evaluations.back();
    if (step > 0) metrics.append({{"step", step}, {"eval_loss", point.value.loss}, {"eval_perplexity", point.value.perplexity}});
    if (events.evaluated) events.evaluated(point);
  };
  if (done == 0) evaluate_now(0);

  const auto begin = Clock::now();
  double stepping = 0, advised = 1;
  int64_t timed_tokens = 0, in_a_row = 0;
  result.steps = done;
  for (int64_t step = done + 1; step <= o.steps; ++step) {
    const auto step_begin = Clock::now();
    std::vector<HostBatch> micro;
    for (int64_t m = 0; m < o.session.accumulate; ++m) micro.push_back(to_host_batch(data->batch(order.windows_of(step - 1, m)), o.isolate_documents));
    const StepResult r = session.step(step, o.steps, micro, o.schedule.at(step), o.schedule.height(step));
    const double seconds = seconds_since(step_begin);
    int64_t rows = 0;
    for (const HostBatch& b : micro) rows += b.sequences * b.length;
    if (step > done + 1) stepping += seconds, timed_tokens += rows;  // the first step pays for compilation of kernels
    result.tokens_per_second = stepping > 0 ? static_cast<double>(timed_tokens) / stepping : static_cast<double>(rows) / seconds;
    metrics.append(metrics_line(r, seconds));
    if (r.skipped) ++result.skipped_steps, note("step " + std::to_string(step) + ": " + r.note);
    in_a_row = r.skipped ? in_a_row + 1 : 0;
    if (r.batch_multiplier != advised)
      note("step " + std::to_string(step) + ": the optimizer advises a batch of " + number(r.batch_multiplier) + " times this size from here on");
    advised = r.batch_multiplier;
    if (r.degraded) note("step " + std::to_string(step) + ": the optimizer kept an older basis because a factorization failed");
    if (std::isfinite(r.loss)) result.last_loss = r.loss;
    result.steps = step;
    if (events.step) events.step(r, o.steps, result.tokens_per_second);
    if (in_a_row == kSkippedInARow) {
      metrics.sync();
      const std::string remedy = r.tokens == 0 ? "give it data with answers to learn, or a longer --seq-len" : "begin it anew with a lower --lr, --dtype f32 or milder options of its techniques";
      throw Error(TN_E_NUMERIC, "the last " + std::to_string(in_a_row) + " steps were all skipped (" + r.note + "), so this run learns nothing any more: " + remedy +
                                    "; what it did is in " + o.output);
    }
    const bool last = step == o.steps, stop = events.stop && events.stop->load();
    if (!last && o.evaluate_every > 0 && step % o.evaluate_every == 0) evaluate_now(step);
    if ((o.checkpoint_every > 0 && step % o.checkpoint_every == 0) || (stop && !last)) {
      metrics.sync();
      save_checkpoint(o.output, step, session, identity, o.keep_checkpoints);
    }
    if (stop && !last) {
      result.stopped = true;
      break;
    }
  }
  result.seconds = seconds_since(begin);
  if (!result.stopped) {
    if (done < o.steps) evaluate_now(o.steps);
    write_final(o.output, session, source, text, runtime);
    result.final_folder = (fs::path(o.output) / "final").string();
    result.measured = {engine->memory().use(), session.offloaded_bytes()};  // what follows is not part of the forecast
    if (events.finished) events.finished(session);
  } else {
    result.measured = {engine->memory().use(), session.offloaded_bytes()};
  }
  metrics.sync();
  return result;
}

}  // namespace tenon::trainer
