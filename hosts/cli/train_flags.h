// The flags of a training run, shared by train, plan and compare.
#pragma once

#include "hosts/cli/mix_flags.h"
#include "hosts/trainer/run/train.h"

namespace tenon::cli {

void add_train_flags(po::options_description& options);

// Reads a recipe file into values: JSON, an object of flag → value. Flags on the command line win.
void read_recipe(const std::string& path, const po::options_description& options, po::variables_map& values);

// Everything that the flags say, checked. `tags` receives the run's tags for the mix.
trainer::TrainOptions train_options(const po::variables_map& values, std::vector<std::string>& tags);

}  // namespace tenon::cli
