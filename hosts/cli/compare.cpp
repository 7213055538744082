// tenon compare: train several mixes and set loss, memory and speed side by side.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/atomic_file.h"
#include "hosts/cli/command.h"
#include "hosts/cli/output.h"
#include "hosts/cli/progress.h"
#include "hosts/cli/train_flags.h"
#include "hosts/trainer/report/comparison.h"
#include "hosts/trainer/run/features.h"

namespace tenon::cli {
namespace {

// Cuts "--optimizer galore:rank=64 --dtype bf16" at spaces.
std::vector<std::string> words(const std::string& text) {
  std::vector<std::string> list;
  std::string word;
  for (char c : text + " ") {
    if (c != ' ') {
      word += c;
    } else if (!word.empty()) {
      list.push_back(std::move(word));
      word.clear();
    }
  }
  return list;
}

trainer::ComparisonRow run_one(const Catalog& catalog, const std::string& mix, std::vector<std::string> arguments, const po::options_description& options,
                               const std::string& output) {
  trainer::ComparisonRow row;
  row.label = mix.empty() ? "(as given)" : mix;
  for (std::string& w : words(mix)) arguments.push_back(std::move(w));
  arguments.insert(arguments.end(), {"--output", output, "--overwrite"});
  try {
    po::variables_map values;
    parse(arguments, options, {}, "", values);
    trainer::MixRequest request = mix_request(catalog, values, true);
    trainer::TrainOptions o = train_options(values, request);
    trainer::Runtime runtime(catalog, request);
    settle_defaults(o, runtime);
    const trainer::ModelSource source = open_model(values);
    const trainer::TextModel text = open_text_model(values, source);
    ProgressLine progress(row.label);
    trainer::TrainEvents events;
    events.note = [&](const std::string& line) { progress.note("tenon: " + line); };
    events.step = [&](const trainer::StepResult& r, int64_t total, double) { progress.update(static_cast<double>(r.step) / static_cast<double>(total), ""); };
    const trainer::TrainResult result = trainer::train(runtime, source, text, o, events);
    row.loss = result.evaluations.empty() ? result.last_loss.value_or(0) : result.evaluations.back().value.loss;
    row.perplexity = std::exp(row.loss);
    row.peak_bytes = result.measured.total_peak, row.tokens_per_second = result.tokens_per_second, row.seconds = result.seconds;
  } catch (const Error& e) {
    row.error = e.what();
  } catch (const Usage& e) {
    row.error = e.what();
  }
  return row;
}

}  // namespace

int run_compare(const std::vector<std::string>& arguments) {
  po::options_description options("Flags (those of train)");
  add_train_flags(options);
  auto add = options.add_options();
  add("mix", po::value<std::vector<std::string>>()->composing(), "one mix, as flags in quotes: \"--optimizer galore:rank=64 --dtype bf16\"; give several");
  add("json", "print the table as JSON");
  po::variables_map values;
  if (!parse(arguments, options, {},
             "tenon compare --model M --data F --output DIR --steps N --mix \"--optimizer adamw\" --mix \"--optimizer galore:rank=64\"\n\n"
             "Trains each mix from the same start on the same batches and sets loss, peak memory and speed side by side, with a chart in DIR/comparison.html.\n"
             "With --held-out or --eval-data the loss is that of the held-out text, else that of the last step.\n",
             values))
    return 0;
  const std::string output = required(values, "output");
  required(values, "model"), required(values, "data");
  if (!values.count("mix")) throw Usage("give at least one --mix \"flags\"");
  apply_threads(values);
  // The flags common to all mixes: everything but --mix, --json and --output.
  std::vector<std::string> common;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string name = arguments[i].substr(0, arguments[i].find('='));
    if (name == "--json") continue;
    if (name == "--mix" || name == "--output") {
      i += arguments[i].find('=') == std::string::npos;
      continue;
    }
    common.push_back(arguments[i]);
  }
  const Catalog catalog = trainer::open_catalog();
  const auto mixes = values["mix"].as<std::vector<std::string>>();
  std::vector<trainer::ComparisonRow> rows;
  for (size_t i = 0; i < mixes.size(); ++i)
    rows.push_back(run_one(catalog, mixes[i], common, options, (std::filesystem::path(output) / ("mix-" + std::to_string(i + 1))).string()));
  const std::string html = (std::filesystem::path(output) / "comparison.html").string();
  std::filesystem::create_directories(output);
  write_file_atomically(html, trainer::html_comparison(rows));
  if (values.count("json")) {
    nlohmann::json j = nlohmann::json::array();
    for (const auto& r : rows) {
      if (!r.error.empty()) {
        j.push_back({{"mix", r.label}, {"error", r.error}});
        continue;
      }
      j.push_back({{"mix", r.label}, {"loss", r.loss}, {"perplexity", r.perplexity}, {"peak_bytes", r.peak_bytes}, {"tokens_per_second", r.tokens_per_second}, {"seconds", r.seconds}});
    }
    print_json({{"mixes", j}, {"report", html}});
    return 0;
  }
  std::printf("%-60s %9s %11s %11s %9s\n", "mix", "loss", "perplexity", "peak", "tokens/s");
  for (const auto& r : rows) {
    if (!r.error.empty())
      std::printf("%-60s %s\n", r.label.c_str(), r.error.c_str());
    else
      std::printf("%-60s %9.4f %11.3f %11s %9.0f\n", r.label.c_str(), r.loss, r.perplexity, format_bytes(r.peak_bytes).c_str(), r.tokens_per_second);
  }
  std::printf("\nchart: %s\n", html.c_str());
  return 0;
}

}  // namespace tenon::cli
