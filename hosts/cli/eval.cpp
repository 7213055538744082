// tenon eval: loss and perplexity of a model on a text.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "hosts/cli/command.h"
#include "hosts/cli/eval_table.h"
#include "hosts/cli/mix_flags.h"
#include "hosts/cli/output.h"
#include "hosts/cli/progress.h"
#include "hosts/cli/train_flags.h"
#include "hosts/trainer/run/evaluate.h"
#include "hosts/trainer/run/export.h"
#include "hosts/trainer/run/features.h"
#include "hosts/trainer/run/inference.h"

namespace tenon::cli {
namespace {

constexpr const char* kHelp =
    "tenon eval --model M --data F [--seq-len T] [--quantizer SPEC] [--adapter-from DIR]\n"
    "tenon eval --model M --data F --calibration C --table none --table nf4 --table gptq:bits=3 --table bitstack --budgets 60MB,40MB\n\n"
    "Mean nats per predicted token over windows of T tokens, and their exponential.\n";

}  // namespace

int run_eval(const std::vector<std::string>& arguments) {
  po::options_description options("Flags");
  add_model_flags(options);
  auto add = options.add_options();
  add("data", po::value<std::string>(), "text (.txt …) or JSON lines (.jsonl)");
  add("seq-len", po::value<std::string>()->default_value("256"), "tokens of a window");
  add_mix_flags(options, false);
  add_embedding_flag(options);
  add("isolate-documents", "attention starts anew at each document of a window");
  add("table", po::value<std::vector<std::string>>()->composing(), "a quantizer (none: dense), given several times: perplexity, size and decoding speed of each, side by side");
  add("budgets", po::value<std::string>(), "with --table: sizes such as 60MB,40MB, in which weights that come in segments are measured too");
  add("json", "print {\"loss\", \"perplexity\", \"tokens\", …}");
  po::variables_map values;
  if (!parse_with_recipe(arguments, options, kHelp, values)) return 0;
  const std::string data_path = required(values, "data");
  const int64_t length = checked_int(values, "seq-len", 2, trainer::kLongestSequence);
  apply_threads(values);
  const Catalog catalog = trainer::open_catalog();
  const trainer::ModelSource source = open_model(values);
  const trainer::TextModel text = open_text_model(values, source);
  trainer::WindowOptions windows;
  windows.length = length, windows.keep_short = true, windows.isolate_documents = values.count("isolate-documents") > 0;
  trainer::Documents documents = trainer::read_documents(data_path, text);
  const std::vector<int32_t> prompt(documents.tokens.begin(), documents.tokens.begin() + std::min<std::ptrdiff_t>(32, static_cast<std::ptrdiff_t>(documents.tokens.size())));
  const trainer::Dataset data(std::move(documents), windows);
  if (values.count("table")) return eval_table(values, catalog, source, data, windows.isolate_documents, prompt);
  if (values.count("budgets")) throw Usage("--budgets goes with --table; a single model takes --weight-budget");
  trainer::Runtime runtime(catalog, mix_request(catalog, values, false));
  trainer::Inference inference = open_inference(runtime, source, values, length);
  ProgressLine progress("evaluating");
  const auto report = [&](size_t done, size_t of) { progress.update(static_cast<double>(done) / static_cast<double>(of), ""); };
  const trainer::Evaluation e = evaluate_as_decoded(inference, data, windows.isolate_documents, report);
  progress.clear();
  const MemoryUse use = inference.engine().memory().use();
  if (values.count("json")) {
    print_json({{"loss", e.loss}, {"perplexity", e.perplexity}, {"tokens", e.tokens}, {"windows", data.size()}, {"peak_bytes", use.total_peak}});
  } else {
    std::printf("loss        %.6f nats per token\nperplexity  %.4f\ntokens      %s predicted\nmemory      %s at the peak\n", e.loss, e.perplexity,
                with_commas(e.tokens).c_str(), format_bytes(use.total_peak).c_str());
  }
  return 0;
}

}  // namespace tenon::cli
