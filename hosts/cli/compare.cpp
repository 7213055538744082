// tenon compare: train several mixes and set loss, memory and speed side by side.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"
#include "core/files/atomic_file.h"
#include "core/files/json.h"
#include "hosts/cli/command.h"
#include "hosts/cli/output.h"
#include "hosts/cli/progress.h"
#include "hosts/cli/run_self.h"
#include "hosts/cli/train_flags.h"
#include "hosts/trainer/report/comparison.h"
#include "hosts/trainer/run/features.h"

namespace tenon::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using trainer::ComparisonRow;

constexpr const char* kHelp =
    "tenon compare --model M --data F --output DIR --steps N --mix \"--optimizer adamw\" --mix \"galore: --optimizer galore:rank=64\"\n\n"
    "Trains each mix from the same start on the same batches, each in a process of its own, and sets loss, peak memory and speed side by side:\n"
    "a table, DIR/comparison.json, DIR/comparison.html and DIR/comparison.svg. What stands before `: --` is a mix's name.\n"
    "With --held-out or --eval-data the loss is that of the held-out text, else that of the last step. --resume keeps the mixes that\n"
    "DIR/comparison.json has with the same flags and runs the others. A recipe may hold it all, with a list \"mix\".\n";

struct Mix {
  std::string name, flags;
};

// "NAME: --flags", or flags alone, which then name the mix.
Mix parse_mix(const std::string& text) {
  const size_t colon = text.find(": --");
  Mix mix{text, text};
  if (colon != std::string::npos && !text.starts_with("--")) mix = {text.substr(0, colon), text.substr(colon + 2)};
  if (mix.name.empty()) mix.name = "(as given)";
  return mix;
}

// Cuts flags at spaces outside of quotes: --optimizer 'muon for matrices, adamw for rest'.
std::vector<std::string> split_flags(const std::string& text) {
  std::vector<std::string> list;
  std::string word;
  char quote = 0;
  bool open = false;
  for (char c : text) {
    if (quote ? c == quote : c == '\'') {
      quote = quote ? 0 : c, open = true;
    } else if (c == ' ' && !quote) {
      if (open) list.push_back(std::move(word));
      word.clear(), open = false;
    } else {
      word += c, open = true;
    }
  }
  if (quote) throw Usage("--mix " + text + " has a ' without its second");
  if (open) list.push_back(std::move(word));
  return list;
}

double number_of(const json& j, const char* key) { return j.contains(key) && j[key].is_number() ? j[key].get<double>() : trainer::kUnknown; }

ComparisonRow run_mix(const Mix& mix, std::vector<std::string> arguments, const std::string& output, ProgressLine& progress) {
  ComparisonRow row;
  row.label = mix.name;
  for (std::string& w : split_flags(mix.flags)) arguments.push_back(std::move(w));
  arguments.insert(arguments.begin(), "train");
  arguments.insert(arguments.end(), {"--output=" + output, "--overwrite", "--json"});
  std::string last;
  const SelfRun run = run_self(arguments, [&](const std::string& line) {
    last = line;
    progress.note(mix.name + ": " + line);
  });
  if (run.status == 130) throw Error(TN_E_CANCELLED, "stopped in the mix " + mix.name + "; --resume goes on with it");
  if (run.status != 0) {
    row.error = last.empty() ? "it ended with code " + std::to_string(run.status) + " and without a word" : last;
    return row;
  }
  const json j = parse_json(run.output, "the answer of the mix " + mix.name);
  const json& seen = j.at("evaluations");
  row.loss = seen.empty() ? number_of(j, "loss") : number_of(seen.back(), "loss");
  row.perplexity = std::exp(row.loss);
  row.peak_bytes = j.value("peak_bytes", uint64_t{0}), row.process_bytes = j.value("process_peak_bytes", uint64_t{0});
  row.tokens_per_second = number_of(j, "tokens_per_second"), row.seconds = number_of(j, "seconds");
  return row;
}

json to_json(const ComparisonRow& r, const std::string& flags) {
  if (!r.error.empty()) return {{"mix", r.label}, {"flags", flags}, {"error", r.error}};
  return {{"mix", r.label}, {"flags", flags}, {"loss", r.loss}, {"perplexity", r.perplexity}, {"peak_bytes", r.peak_bytes},
          {"process_peak_bytes", r.process_bytes}, {"tokens_per_second", r.tokens_per_second}, {"seconds", r.seconds}};
}

ComparisonRow from_json(const json& j) {
  ComparisonRow r;
  r.label = j.value("mix", ""), r.loss = number_of(j, "loss"), r.perplexity = number_of(j, "perplexity");
  r.peak_bytes = j.value("peak_bytes", uint64_t{0}), r.process_bytes = j.value("process_peak_bytes", uint64_t{0});
  r.tokens_per_second = number_of(j, "tokens_per_second"), r.seconds = number_of(j, "seconds");
  return r;
}

// The flags that all mixes share, in the form in which train takes them.
std::vector<std::string> common_flags(const po::variables_map& values, const po::options_description& options) {
  std::vector<std::string> flags;
  for (const auto& o : options.options()) {
    const std::string name = o->long_name();
    if (name == "mix" || name == "json" || name == "output" || name == "recipe" || name == "resume" || name == "overwrite" ||
        name == "keep-models") continue;
    if (!values.count(name) || values[name].defaulted()) continue;
    const auto& value = values[name].value();
    if (const auto* text = boost::any_cast<std::string>(&value))
      flags.push_back(o->semantic()->max_tokens() == 0 ? "--" + name : "--" + name + "=" + *text);
    else if (const auto* list = boost::any_cast<std::vector<std::string>>(&value))
      for (const std::string& v : *list) flags.push_back("--" + name + "=" + v);
  }
  return flags;
}

class Comparison {
 public:
  Comparison(const std::string& output, std::vector<std::string> common) : output_(output), common_(std::move(common)) {
    fs::create_directories(output);
    for (const std::string& f : common_) shown_ += (shown_.empty() ? "" : " ") + (f.find(' ') == std::string::npos ? f : "'" + f + "'");
  }

  // Rows of an earlier run with the same flags in common are there for the asking.
  void resume() {
    if (!fs::exists(path("json"))) return;
    const json j = read_json_file(path("json"));
    if (!j.is_object() || j.value("common", "") != shown_ || !j.contains("mixes") || !j["mixes"].is_array()) return;
    for (const json& m : j["mixes"])
      if (m.is_object() && !m.contains("error")) earlier_.push_back(m);
  }
  std::optional<ComparisonRow> earlier(const Mix& mix) const {
    for (const json& m : earlier_)
      if (m.value("mix", "") == mix.name && m.value("flags", "") == mix.flags) return from_json(m);
    return {};
  }

  ComparisonRow run(const Mix& mix, bool keep_models, ProgressLine& progress) {
    const fs::path folder = fs::path(output_) / ("mix-" + std::to_string(rows_.size() + 1));
    const ComparisonRow row = run_mix(mix, common_, folder.string(), progress);
    if (!keep_models) fs::remove_all(folder / "final");
    return row;
  }

  // Everything is written anew after each mix, so that a run which is stopped has lost none.
  void add(const Mix& mix, const ComparisonRow& row) {
    rows_.push_back(row), mixes_.push_back(to_json(row, mix.flags));
    write_file_atomically(path("json"), json{{"common", shown_}, {"mixes", mixes_}}.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
    write_file_atomically(path("html"), trainer::html_comparison(rows_, {{"flags", shown_}}));
    write_file_atomically(path("svg"), trainer::svg_comparison(rows_, "tenon compare: loss, memory and speed of " + std::to_string(rows_.size()) + " mixes"));
  }

  std::string path(const std::string& ending) const { return (fs::path(output_) / ("comparison." + ending)).string(); }
  const std::vector<ComparisonRow>& rows() const { return rows_; }
  const json& mixes() const { return mixes_; }

 private:
  std::string output_, shown_;
  std::vector<std::string> common_;
  std::vector<json> earlier_;
  std::vector<ComparisonRow> rows_;
  json mixes_ = json::array();
};

}  // namespace

int run_compare(const std::vector<std::string>& arguments) {
  po::options_description options("Flags (those of train)");
  add_train_flags(options);
  auto add = options.add_options();
  add("mix", po::value<std::vector<std::string>>()->composing(), "one mix, as flags in quotes: \"--optimizer galore:rank=64 --dtype bf16\"; give several");
  add("keep-models", "keep the trained model of each mix, in DIR/mix-N/final; else it goes when its figures are taken");
  add("json", "print the table as JSON");
  po::variables_map values;
  if (!parse_with_recipe(arguments, options, kHelp, values)) return 0;
  const std::string output = required(values, "output");
  required(values, "model"), required(values, "data");
  if (!values.count("mix")) throw Usage("give at least one --mix \"flags\"");
  std::vector<Mix> mixes;
  for (const std::string& text : values["mix"].as<std::vector<std::string>>()) {
    mixes.push_back(parse_mix(text));
    split_flags(mixes.back().flags);  // a quote left open is said before an hour of training, not after
  }

  Comparison comparison(output, common_flags(values, options));
  if (values.count("resume")) comparison.resume();
  ProgressLine progress("comparing");
  for (size_t i = 0; i < mixes.size(); ++i) {
    progress.update(static_cast<double>(i) / static_cast<double>(mixes.size()), mixes[i].name);
    const auto earlier = comparison.earlier(mixes[i]);
    comparison.add(mixes[i], earlier ? *earlier : comparison.run(mixes[i], values.count("keep-models") > 0, progress));
  }
  progress.clear();

  if (values.count("json")) {
    print_json({{"mixes", comparison.mixes()}, {"report", comparison.path("html")}, {"picture", comparison.path("svg")}});
    return 0;
  }
  size_t width = 3;
  for (const auto& r : comparison.rows()) width = std::max(width, std::min<size_t>(r.label.size(), 60));
  std::printf("    %-*s %9s %11s %11s %11s %9s\n", static_cast<int>(width), "mix", "loss", "perplexity", "peak", "process", "tokens/s");
  const std::vector<bool> front = trainer::pareto_front(comparison.rows());
  for (size_t i = 0; i < comparison.rows().size(); ++i) {
    const ComparisonRow& r = comparison.rows()[i];
    if (!r.error.empty())
      std::printf("    %-*s %s\n", static_cast<int>(width), r.label.c_str(), r.error.c_str());
    else
      std::printf("%s%-*s %9.4f %11.3f %11s %11s %9.0f\n", front[i] ? "  * " : "    ", static_cast<int>(width), r.label.c_str(), r.loss, r.perplexity,
                  format_bytes(r.peak_bytes).c_str(), format_bytes(r.process_bytes).c_str(), r.tokens_per_second);
  }
  std::printf("\n* no other mix has both less loss and less memory\nchart: %s\n", comparison.path("html").c_str());
  return 0;
}

}  // namespace tenon::cli
