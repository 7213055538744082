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

// Everything that the flags say, checked. `tags` receives the run's tags for the mix.
trainer::TrainOptions train_options(const po::variables_map& values, std::vector<std::string>& tags);

}  // namespace tenon::cli
