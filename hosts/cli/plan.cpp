// tenon plan: memory by category before a run, and what would fit.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "hosts/cli/command.h"
#include "hosts/cli/output.h"
#include "hosts/cli/train_flags.h"
#include "hosts/trainer/run/answers.h"
#include "hosts/trainer/run/features.h"

namespace tenon::cli {
namespace {

int print_longest(const trainer::Runtime& runtime, const trainer::ModelSource& source, const trainer::TrainOptions& o, const trainer::RunShape& shape,
                  bool as_json) {
  if (o.memory_limit == 0) throw Usage("--longest needs --memory-limit SIZE");
  const auto rows = trainer::longest_by_schedule(runtime, source, o.session, shape, o.compute, o.memory_limit);
  if (as_json) {
    nlohmann::json all = nlohmann::json::array();
    for (const auto& r : rows) all.push_back({{"flags", r.flags}, {"tokens", r.tokens}});
    print_json({{"limit", o.memory_limit}, {"longest", all}});
    return 0;
  }
  std::printf("longest sequence of %lld × T tokens in %s\n\n", static_cast<long long>(shape.batch), format_bytes(o.memory_limit).c_str());
  for (const auto& r : rows) std::printf("  %12s  %s\n", with_commas(r.tokens).c_str(), r.flags.c_str());
  return 0;
}

}  // namespace

int run_plan(const std::vector<std::string>& arguments) {
  po::options_description options("Flags (those of train)");
  add_train_flags(options);
  options.add_options()("longest", "print the longest sequence that fits into --memory-limit, by schedule");
  options.add_options()("json", "print {\"planned_bytes\", \"categories\", \"alternatives\", …}");
  po::variables_map values;
  if (!parse_with_recipe(arguments, options, "tenon plan --model M [flags of train]\n\nSays what a training run will allocate, by category, without allocating it; with --memory-limit also\nwhich flags would make it fit, and with --longest how long a sequence may be. Exit 0: fits (or no limit); 1: does not.\n", values))
    return 0;
  const Catalog catalog = trainer::open_catalog();
  trainer::MixRequest request = mix_request(catalog, values, true);
  trainer::TrainOptions o = train_options(values, request);
  trainer::Runtime runtime(catalog, request);
  settle_defaults(o, runtime);
  const trainer::ModelSource source = open_model(values);
  const trainer::RunShape shape{o.batch, o.session.sequence, o.held_out > 0 || !o.evaluation_data.empty(), std::max<int64_t>(o.steps, 1)};
  if (values.count("longest")) return print_longest(runtime, source, o, shape, values.count("json") > 0);
  const trainer::RunMemory use = trainer::plan_run(runtime, source, o.session, shape, o.compute);
  std::vector<trainer::Alternative> ways;
  const bool fits = o.memory_limit == 0 || use.total_peak <= o.memory_limit;
  if (!fits) ways = trainer::what_would_fit(runtime, source, o.session, shape, o.compute, o.memory_limit);
  if (values.count("json")) {
    print_json(trainer::plan_json(use, o.memory_limit, ways, source.config().parameters()));
    return fits ? 0 : 1;
  }
  std::printf("%s parameters, batch %lld × %lld tokens\n\n", with_commas(source.config().parameters()).c_str(), static_cast<long long>(o.batch),
              static_cast<long long>(o.session.sequence));
  for (int c = 0; c < kCategories; ++c)
    if (use.at_peak[c] > 0) {
      std::printf("  %-16s %12s", category_name(static_cast<Category>(c)), format_bytes(use.at_peak[c]).c_str());
      if (static_cast<Category>(c) == Category::kOptimizerState && request.adapters.empty() && request.adapter_from.empty())
        std::printf("  %.2f bytes a parameter", static_cast<double>(use.at_peak[c]) / static_cast<double>(source.config().parameters()));
      std::printf("\n");
    }
  std::printf("  %-16s %12s\n", "peak", format_bytes(use.total_peak).c_str());
  if (use.offloaded > 0) std::printf("  %-16s %12s outside of the device's memory\n", "offloaded", format_bytes(use.offloaded).c_str());
  if (!fits) {
    std::printf("\nmore than the limit of %s; ", format_bytes(o.memory_limit).c_str());
    std::printf(ways[0].bytes <= o.memory_limit ? "these would fit:\n" : "nothing tried fits; the smallest was:\n");
    for (const auto& w : ways) std::printf("  %12s  %s\n", format_bytes(w.bytes).c_str(), w.flags.c_str());
  }
  return fits ? 0 : 1;
}

}  // namespace tenon::cli
