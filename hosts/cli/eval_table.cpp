#include "hosts/cli/eval_table.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"
#include "hosts/cli/output.h"
#include "hosts/cli/progress.h"
#include "hosts/trainer/run/generate.h"
#include "hosts/trainer/run/inference.h"
#include "hosts/trainer/run/segments.h"

namespace tenon::cli {
namespace {

constexpr int64_t kDecoded = 64;     // tokens of a speed, after the first
constexpr int64_t kCachedStep = 16;  // tokens that are read together through --kv-cache

struct Row {
  std::string label, error;
  double perplexity = 0, bits = 0, tokens_per_second = 0;
  uint64_t bytes = 0;
};

std::vector<uint64_t> budgets(const po::variables_map& values) {
  std::vector<uint64_t> all;
  std::string word;
  for (char c : value_or<std::string>(values, "budgets", "") + ",") {
    if (c != ',') {
      word += c;
    } else if (!word.empty()) {
      all.push_back(parse_size(word, "--budgets"));
      word.clear();
    }
  }
  std::sort(all.rbegin(), all.rend());  // segments are dropped, never made again
  return all;
}

// Of the blocks' linears, dense or coded.
uint64_t linear_bytes(trainer::Model& model, int64_t& weights) {
  uint64_t bytes = trainer::quantized_bytes(model);
  weights = 0;
  for (const trainer::Linear* l : model.linears()) {
    if (l->block < 0) continue;
    weights += l->m * l->n;
    if (!l->quantized && l->weight) bytes += static_cast<uint64_t>(l->weight->value.bytes());
  }
  return bytes;
}

Row measure(const std::string& label, trainer::Inference& inference, const trainer::Dataset& data, bool isolate, const std::vector<int32_t>& prompt) {
  trainer::Model& model = inference.model();
  Row row;
  row.label = label;
  ProgressLine progress(label);
  row.perplexity = evaluate_as_decoded(inference, data, isolate, [&](size_t done, size_t of) { progress.update(static_cast<double>(done) / static_cast<double>(of), ""); }).perplexity;
  int64_t weights = 0;
  row.bytes = linear_bytes(model, weights);
  row.bits = 8.0 * static_cast<double>(row.bytes) / static_cast<double>(std::max<int64_t>(weights, 1));
  trainer::SamplingOptions greedy;
  greedy.max_new_tokens = kDecoded + 1, greedy.temperature = 0;
  std::optional<std::chrono::steady_clock::time_point> first;
  const size_t made = trainer::generate(model, prompt, greedy, [&](int32_t) {
                        if (!first) first = std::chrono::steady_clock::now();
                        return true;
                      }).size();
  if (first && made > 1) row.tokens_per_second = static_cast<double>(made - 1) / std::chrono::duration<double>(std::chrono::steady_clock::now() - *first).count();
  return row;
}

// One row as text; they come minutes apart, so each is shown when it is there.
void print_row(const Row& r) {
  if (!r.error.empty())
    std::printf("%-64s %s\n", r.label.c_str(), r.error.c_str());
  else
    std::printf("%-64s %11.4f %11s %8.3f %9.1f\n", r.label.c_str(), r.perplexity, format_bytes(r.bytes).c_str(), r.bits, r.tokens_per_second);
  std::fflush(stdout);
}

void add_rows(const std::function<void(Row)>& add, const std::string& spec, const po::variables_map& values, const Catalog& catalog, const trainer::ModelSource& source,
              const trainer::Dataset& data, bool isolate, const std::vector<int32_t>& prompt) {
  try {
    trainer::MixRequest request = mix_request(catalog, values, false);
    request.quantizer = spec == "none" ? "" : spec;
    trainer::Runtime runtime(catalog, request);
    const std::vector<uint64_t> limits = budgets(values);
    trainer::Inference inference = open_inference(runtime, source, values, std::max<int64_t>(data.length(), static_cast<int64_t>(prompt.size()) + kDecoded + 1), !limits.empty());
    add(measure(spec, inference, data, isolate, prompt));
    const trainer::Quantizer* quantizer = inference.session().techniques().quantizer;
    if (!quantizer || !quantizer->segments) return;
    for (uint64_t limit : limits) {
      trainer::fit_segments(inference.engine(), inference.model(), inference.session().segment_order(), limit);
      add(measure(spec + " in " + format_bytes(limit), inference, data, isolate, prompt));
    }
  } catch (const Error& e) {
    add({spec, e.what()});
  }
}

}  // namespace

trainer::Evaluation evaluate_as_decoded(trainer::Inference& inference, const trainer::Dataset& data, bool isolate, const std::function<void(size_t, size_t)>& progress) {
  if (!inference.session().techniques().kv_cache) return trainer::evaluate(inference.model(), data, isolate, progress);
  if (isolate) throw Usage("--kv-cache reads a window as one text; drop --isolate-documents");
  return trainer::evaluate_cached(inference.model(), data, kCachedStep, progress);
}

int eval_table(const po::variables_map& values, const Catalog& catalog, const trainer::ModelSource& source, const trainer::Dataset& data, bool isolate,
               const std::vector<int32_t>& prompt) {
  if (values.count("quantizer") || values.count("weight-budget")) throw Usage("--table names the quantizers, and --budgets their sizes; drop --quantizer and --weight-budget");
  const bool json = values.count("json") > 0;
  if (!json) std::printf("%-64s %11s %11s %8s %9s\n", "quantizer", "perplexity", "weights", "bits", "tokens/s");
  std::vector<Row> rows;
  const auto add = [&](Row row) {
    if (!json) print_row(row);
    rows.push_back(std::move(row));
  };
  for (const std::string& spec : values["table"].as<std::vector<std::string>>()) add_rows(add, spec, values, catalog, source, data, isolate, prompt);
  if (json) {
    nlohmann::json all = nlohmann::json::array();
    for (const Row& r : rows) {
      if (!r.error.empty())
        all.push_back({{"quantizer", r.label}, {"error", r.error}});
      else
        all.push_back({{"quantizer", r.label}, {"perplexity", r.perplexity}, {"linear_bytes", r.bytes}, {"bits_per_weight", r.bits}, {"decoded_tokens_per_second", r.tokens_per_second}});
    }
    print_json({{"quantizers", all}});
  }
  return 0;
}

}  // namespace tenon::cli
