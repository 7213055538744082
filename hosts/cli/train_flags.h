// The flags of a training run, shared by train, plan and compare.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "hosts/cli/mix_flags.h"
#include "hosts/trainer/run/train.h"

namespace tenon::cli {

void add_train_flags(po::options_description& options);

// The flags of a recipe, as arguments: an object of flag → value, where true and false are switches, a list repeats its flag and null
// leaves it out. `where` begins errors. Throws Usage.
std::vector<std::string> recipe_arguments(const nlohmann::json& recipe, const std::string& where);
// Parses the command line, to which it adds --recipe, a file of flags; those on the command line win. False: help was shown.
bool parse_with_recipe(const std::vector<std::string>& arguments, po::options_description& options, const std::string& help, po::variables_map& values);

// Everything that the flags say, checked. The mix receives the run's tags; those of defaults yield to it.
trainer::TrainOptions train_options(const po::variables_map& values, trainer::MixRequest& mix);
// Turns off the defaults that gave way to the mix. Answers a line for the user, or "".
std::string settle_defaults(trainer::TrainOptions& options, const trainer::Runtime& runtime);

}  // namespace tenon::cli
