// tenon train: fine-tune or pre-train a model with any mix of plugins.
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/atomic_file.h"
#include "hosts/cli/command.h"
#include "hosts/cli/output.h"
#include "hosts/cli/progress.h"
#include "hosts/cli/stop_signals.h"
#include "hosts/cli/train_flags.h"
#include "hosts/cli/train_report.h"
#include "hosts/trainer/run/answers.h"
#include "hosts/trainer/run/features.h"
#include "hosts/trainer/run/generate.h"

namespace tenon::cli {
namespace {

constexpr const char* kHelp =
    "tenon train --model M --data F --output DIR [mix and flags]\n\n"
    "Trains a model on text. Without --adapter every weight is tuned; with one, the adapter alone, over a dense or quantized base:\n"
    "  tenon train --model SmolLM2.gguf --data book.txt --output out --adapter lora:r=16,target_modules=all-linear --quantizer nf4\n"
    "  tenon train --model SmolLM2.gguf --data book.txt --output out --dtype bf16 --optimizer galore:rank=128 --fused-backward\n"
    "  tenon train --model preset:60m --tokenizer SmolLM2.gguf --data corpus.txt --output out --lr 1e-3\n"
    "\nSeveral optimizers: clauses SPEC for WHAT, asked in order, the last one `for rest`. WHAT is matrices, vectors, embeddings, head, norms,\n"
    "biases, attention, mlp, q, k, v, o, gate, up, down, adapters, scales, blocks 0-5, a pattern of names with a *, or several joined by `and`;\n"
    "`in blocks 4-` narrows it. The key lr of any optimizer is its own highest rate in place of --lr, on the same schedule:\n"
    "  tenon train ... --optimizer 'muon:lr=0.02 for matrices in blocks 0-27, adamw for rest'\n\n"
    "`tenon plan` with the same flags says what it will need. Ctrl-C stops after the step and leaves a checkpoint for --resume;\n"
    "a second one stops at once.\n";

std::string step_text(const trainer::StepResult& r, int64_t total, double tokens_per_second) {
  char text[160];
  std::snprintf(text, sizeof text, "step %lld/%lld  loss %.4f  lr %.2e  %.0f tok/s", static_cast<long long>(r.step), static_cast<long long>(total), r.loss,
                r.lr, tokens_per_second);
  std::string line = text;
  int shown = 0;
  for (const auto& [name, value] : r.metrics) {
    if (++shown > 2) break;  // all of them are in metrics.jsonl
    std::snprintf(text, sizeof text, "  %s %.4g", name.c_str(), value);
    line += text;
  }
  return line;
}

}  // namespace

int run_train(const std::vector<std::string>& arguments) {
  po::options_description options("Flags");
  add_train_flags(options);
  auto add = options.add_options();
  add("sample-prompt", po::value<std::string>(), "continue this text before and after, for the report");
  add("json", "print a summary as JSON");
  po::variables_map values;
  if (!parse_with_recipe(arguments, options, kHelp, values)) return 0;
  required(values, "model"), required(values, "data"), required(values, "output");
  take_stop_signals();
  const Catalog catalog = trainer::open_catalog();
  trainer::MixRequest request = mix_request(catalog, values, true);
  trainer::TrainOptions train_opts = train_options(values, request);
  apply_threads(values);

  ProgressLine progress("training");
  // The mix is looked at before the model: its refusals are the quickest.
  trainer::Runtime runtime(catalog, request);
  if (const std::string note = settle_defaults(train_opts, runtime); !note.empty()) progress.note("tenon: " + note);
  const trainer::ModelSource source = open_model(values);
  const trainer::TextModel text = open_text_model(values, source);

  TrainReport report(values, arguments, runtime, source);
  const std::string sample_prompt = value_or<std::string>(values, "sample-prompt", "");
  const std::vector<int32_t> sample_ids = text.tokenizer.encode(sample_prompt);
  text.require_rows(sample_ids, "--sample-prompt");
  const auto sample = [&](trainer::Session& session, const char* label) {
    if (sample_prompt.empty()) return;
    trainer::SamplingOptions s;
    s.max_new_tokens = 48, s.temperature = 0.7, s.top_p = 0.9, s.seed = train_opts.session.seed;
    if (text.eos_id) s.stop.push_back(*text.eos_id);
    const std::string continuation = text.tokenizer.decode(trainer::generate(session.model(), sample_ids, s), true);
    report.add_sample(label, sample_prompt, continuation);
  };

  trainer::TrainEvents events;
  events.stop = &stop_requested();
  events.note = [&](const std::string& line) { progress.note("tenon: " + line), report.add_note(line); };
  events.planned = [&](const MemoryUse& use) { progress.note("planned memory: " + format_bytes(use.total_peak)); };
  events.calibrating = [&](size_t done, size_t of) { progress.update(0, "calibrating block " + std::to_string(done) + " of " + std::to_string(of)); };
  events.ready = [&](trainer::Session& session, int64_t done) {
    report.set_parameters(source.config().parameters(), session.trainable_parameters());
    progress.note("training " + with_commas(session.trainable_parameters()) + " of " + with_commas(source.config().parameters()) + " parameters on " +
                  runtime.device_info().name);
    if (done == 0) sample(session, "before:");
  };
  events.step = [&](const trainer::StepResult& r, int64_t total, double tokens_per_second) {
    report.add_step(r, tokens_per_second);
    progress.update(static_cast<double>(r.step) / static_cast<double>(total), step_text(r, total, tokens_per_second));
  };
  events.evaluated = [&](const trainer::EvaluationPoint& p) {
    report.add_evaluation(p);
    char line[120];
    std::snprintf(line, sizeof line, "held-out loss %.4f, perplexity %.3f after %lld steps", p.value.loss, p.value.perplexity, static_cast<long long>(p.step));
    progress.note(line);
  };
  events.finished = [&](trainer::Session& session) { sample(session, "after:"); };
  const trainer::TrainResult result = trainer::train(runtime, source, text, train_opts, events);
  progress.clear();
  const std::string report_path = report.write(train_opts.output, result);

  if (values.count("json")) {
    nlohmann::json j = trainer::result_json(result, source.config().parameters());
    j["process_peak_bytes"] = process_peak_bytes(), j["report"] = report_path, j["samples"] = report.samples_json();
    print_json(j);
    return result.stopped ? 130 : 0;
  }
  std::printf("steps        %s%s\n", with_commas(result.steps).c_str(), result.stopped ? " (stopped; go on with --resume)" : "");
  if (result.last_loss) std::printf("loss         %.4f\n", *result.last_loss);
  if (result.evaluations.size() >= 2)
    std::printf("held out     perplexity %.3f before, %.3f after\n", result.evaluations.front().value.perplexity, result.evaluations.back().value.perplexity);
  std::printf("speed        %.0f tokens/s\n", result.tokens_per_second);
  std::printf("memory       %s planned, %s measured, %s whole process\n", format_bytes(result.planned.total_peak).c_str(),
              format_bytes(result.measured.total_peak).c_str(), format_bytes(process_peak_bytes()).c_str());
  if (result.measured.offloaded > 0)
    std::printf("offloaded    %s planned, %s measured, outside of the device's memory\n", format_bytes(result.planned.offloaded).c_str(),
                format_bytes(result.measured.offloaded).c_str());
  report.print_samples();
  if (!result.final_folder.empty()) std::printf("result       %s\n", result.final_folder.c_str());
  std::printf("report       %s\n", report_path.c_str());
  return result.stopped ? 130 : 0;
}

}  // namespace tenon::cli
