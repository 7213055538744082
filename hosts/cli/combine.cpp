// tenon combine: several adapters become one.
#include <charconv>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "hosts/cli/command.h"
#include "hosts/cli/mix_flags.h"
#include "hosts/cli/output.h"
#include "hosts/trainer/run/combine.h"
#include "hosts/trainer/run/features.h"

namespace tenon::cli {
namespace {

double weight_of(const std::string& text) {
  double weight = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), weight);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(weight)) throw Usage("--weight " + text + " is not a number");
  return weight;
}

}  // namespace

int run_combine(const std::vector<std::string>& arguments) {
  po::options_description options("Flags");
  auto add = options.add_options();
  add("adapter-from", po::value<std::vector<std::string>>()->composing(), "PEFT folder; may be given again");
  add("weight", po::value<std::vector<std::string>>()->composing(), "of the adapter in the same place, negative to take it away; default: 1 each");
  add("method", po::value<std::string>()->default_value("cat"), "cat: exact, of the sum of the ranks; svd: the nearest of --rank; linear: sums factors of equal rank, rough");
  add("rank", po::value<std::string>()->default_value("0"), "of the result of svd; 0: the largest that goes in");
  add("output", po::value<std::string>(), "the PEFT folder to write; must not exist");
  add("json", "print {\"output\", \"method\"}");
  po::variables_map values;
  if (!parse(arguments, options, {},
             "tenon combine --adapter-from A --weight 0.7 --adapter-from B --weight 0.3 --output AB\n"
             "tenon combine --adapter-from A --adapter-from B --weight 1 --weight -1 --method svd --rank 16 --output A-minus-B\n\n"
             "Writes an adapter whose delta is the weighted sum of the deltas of others (PEFT's add_weighted_adapter). It needs no model.\n",
             values))
    return 0;
  const std::string output = required(values, "output"), method = values["method"].as<std::string>();
  if (!values.count("adapter-from")) throw Usage("--adapter-from is missing; give the folder of each adapter that goes in");
  const auto folders = values["adapter-from"].as<std::vector<std::string>>();
  std::vector<std::string> weights(folders.size(), "1");
  if (values.count("weight")) weights = values["weight"].as<std::vector<std::string>>();
  if (weights.size() != folders.size())
    throw Usage("there are " + std::to_string(folders.size()) + " adapters but " + std::to_string(weights.size()) + " --weight; give one each, or none");
  std::error_code ec;
  if (std::filesystem::exists(output, ec)) throw Error(TN_E_CONFLICT, "--output " + output + " exists already; choose another folder");
  std::vector<trainer::CombinePart> parts;
  for (size_t i = 0; i < folders.size(); ++i) parts.push_back({folders[i], weight_of(weights[i])});
  trainer::combine_adapters(trainer::open_catalog(), parts, method, checked_int(values, "rank", 0, 65536), output);
  if (values.count("json"))
    print_json({{"output", output}, {"method", method}, {"adapters", folders.size()}});
  else
    std::printf("%s\n", output.c_str());
  return 0;
}

}  // namespace tenon::cli
