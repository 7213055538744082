// tenon check: is this mix of plugins possible, and why not.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/catalog/catalog.h"
#include "hosts/cli/arguments.h"
#include "hosts/cli/command.h"
#include "hosts/cli/mix_flags.h"
#include "hosts/cli/output.h"
#include "hosts/trainer/run/features.h"
#include "hosts/trainer/run/mix.h"

namespace tenon::cli {

int run_check(const std::vector<std::string>& arguments) {
  po::options_description options("Flags");
  auto add = options.add_options();
  add("optimizer", po::value<std::string>(), "optimizer plugin, or several with what each takes, as in train");
  add("adapter", po::value<std::vector<std::string>>()->composing(), "adapter plugin; may be given again");
  add("quantizer", po::value<std::string>(), "quantizer plugin of the weights");
  add("attention", po::value<std::string>(), "attention plugin");
  add("device", po::value<std::string>(), "device plugin");
  add("fused-backward", "with the update inside backward");
  add("streambp", "with blocks in slices of rows");
  add("seco", "with the model in chunks of rows");
  add("act-offload", "with saved activations outside of the device's memory");
  add("zero-offload", "with updates on the host");
  add("accumulate", "with gradient accumulation");
  add("clip", "with clipping by the global norm");
  add("json", "print {\"possible\": …, \"reasons\": […]}");
  po::variables_map values;
  if (!parse(arguments, options, {},
             "tenon check --optimizer galore:rank=16 --adapter lora --quantizer nf4\n\nAsks the catalog whether these techniques work together. Exit 0: possible; 1: not, with every reason.\n", values))
    return 0;
  const Catalog catalog = trainer::open_catalog();
  std::vector<Spec> specs;  // all but the optimizers
  const auto take = [&](const char* flag, uint32_t kind) {
    if (values.count(flag)) specs.push_back(catalog.spec(kind, values[flag].as<std::string>()));
  };
  const auto optimizers = trainer::resolve_optimizers(catalog, value_or<std::string>(values, "optimizer", ""));
  if (values.count("adapter"))
    for (const std::string& a : values["adapter"].as<std::vector<std::string>>()) specs.push_back(catalog.spec(TN_KIND_ADAPTER, a));
  take("quantizer", TN_KIND_QUANTIZER);
  take("attention", TN_KIND_ATTENTION);
  const bool in_rows = values.count("streambp") || values.count("seco");  // which ask something of attention
  if (in_rows && !values.count("attention")) specs.push_back(catalog.spec(TN_KIND_ATTENTION, trainer::kDefaultAttention));
  if (specs.empty() && optimizers.empty()) throw Usage("name at least one of --optimizer, --adapter, --quantizer, --attention");
  std::vector<std::string> tags;
  for (const char* feature : {"fused-backward", "streambp", "seco", "act-offload", "zero-offload", "accumulate"})
    if (values.count(feature)) tags.push_back(std::string("run:") + feature);
  if (values.count("clip")) tags.push_back("run:clip-global-norm");
  if (values.count("device")) tags.push_back("device:" + catalog.resolve(TN_KIND_DEVICE, values["device"].as<std::string>()));
  const MixAnswer answer = trainer::check_mix(catalog, optimizers, specs, tags);
  if (values.count("json")) {
    nlohmann::json reasons = nlohmann::json::array();
    for (const MixReason& r : answer.reasons) reasons.push_back(r.sentence);
    print_json({{"possible", answer.possible}, {"reasons", reasons}});
  } else if (answer.possible) {
    std::puts("possible");
  } else {
    std::puts("not possible:");
    for (const MixReason& r : answer.reasons) std::printf("  %s\n", r.sentence.c_str());
  }
  return answer.possible ? 0 : 1;
}

}  // namespace tenon::cli
