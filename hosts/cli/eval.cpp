// tenon eval: loss and perplexity of a model on a text.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "hosts/cli/command.h"
#include "hosts/cli/mix_flags.h"
#include "hosts/cli/output.h"
#include "hosts/cli/progress.h"
#include "hosts/trainer/run/evaluate.h"
#include "hosts/trainer/run/export.h"
#include "hosts/trainer/run/features.h"
#include "hosts/trainer/run/inference.h"

namespace tenon::cli {
namespace {

constexpr int64_t kCachedStep = 16;  // tokens that are read together through --kv-cache

}  // namespace

int run_eval(const std::vector<std::string>& arguments) {
  po::options_description options("Flags");
  add_model_flags(options);
  auto add = options.add_options();
  add("data", po::value<std::string>(), "text (.txt …) or JSON lines (.jsonl)");
  add("seq-len", po::value<std::string>()->default_value("256"), "tokens of a window");
  add_mix_flags(options, false);
  add("isolate-documents", "attention starts anew at each document of a window");
  add("json", "print {\"loss\", \"perplexity\", \"tokens\", …}");
  po::variables_map values;
  if (!parse(arguments, options, {},
             "tenon eval --model M --data F [--seq-len T] [--quantizer SPEC] [--adapter-from DIR]\n\nMean nats per predicted token over windows of T tokens, and their exponential.\n", values))
    return 0;
  const std::string data_path = required(values, "data");
  const int64_t length = checked_int(values, "seq-len", 2, trainer::kLongestSequence);
  apply_threads(values);
  const Catalog catalog = trainer::open_catalog();
  const trainer::ModelSource source = open_model(values);
  const trainer::TextModel text = open_text_model(values, source);
  trainer::WindowOptions windows;
  windows.length = length, windows.keep_short = true, windows.isolate_documents = values.count("isolate-documents") > 0;
  const trainer::Dataset data(trainer::read_documents(data_path, text), windows);
  trainer::Runtime runtime(catalog, mix_request(catalog, values, false));
  trainer::Inference inference = open_inference(runtime, source, values, length);
  ProgressLine progress("evaluating");
  const auto report = [&](size_t done, size_t of) { progress.update(static_cast<double>(done) / static_cast<double>(of), ""); };
  const bool cached = inference.session().techniques().kv_cache != nullptr;
  if (cached && windows.isolate_documents) throw Usage("--kv-cache reads a window as one text; drop --isolate-documents");
  const trainer::Evaluation e = cached ? trainer::evaluate_cached(inference.model(), data, kCachedStep, report)
                                       : trainer::evaluate(inference.model(), data, windows.isolate_documents, report);
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
