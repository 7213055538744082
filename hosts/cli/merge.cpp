// tenon merge: merge an adapter into its model.
#include <cstdio>
#include <filesystem>

#include "core/error.h"
#include "core/files/atomic_folder.h"
#include "hosts/cli/command.h"
#include "hosts/cli/mix_flags.h"
#include "hosts/trainer/run/export.h"
#include "hosts/trainer/run/features.h"
#include "hosts/trainer/run/inference.h"

namespace tenon::cli {

int run_merge(const std::vector<std::string>& arguments) {
  po::options_description options("Flags");
  add_model_flags(options);
  auto add = options.add_options();
  add("output", po::value<std::string>(), "the merged Hugging Face folder; must not exist");
  add_mix_flags(options, false);
  po::variables_map values;
  if (!parse(arguments, options, {},
             "tenon merge --model M --adapter-from DIR --output DIR\n\nAdds the adapter's delta to each weight in f32, rounds once, and writes a Hugging Face folder. The weights are written in the\n"
             "type of the model's own file unless --dtype is given. With --quantizer the delta is added to the decoded weights: the function that was trained.\n",
             values))
    return 0;
  const std::string output = required(values, "output");
  if (!values.count("adapter-from")) throw Usage("--adapter-from is missing; give the folder of the adapter to merge");
  std::error_code ec;
  if (std::filesystem::exists(output, ec)) throw Error(TN_E_CONFLICT, "--output " + output + " exists already; choose another folder");
  const Catalog catalog = trainer::open_catalog();
  trainer::Runtime runtime(catalog, mix_request(values, false));
  const trainer::ModelSource source = open_model(values);
  const std::string& stored = source.config().file_dtype;
  const std::string dtype = !values["dtype"].defaulted() ? values["dtype"].as<std::string>() : (stored == "bfloat16" || stored == "float16") ? "bf16" : "f32";
  // The base is read in f32 so that nothing is rounded before the sum.
  trainer::Inference inference(runtime, source, trainer::kF32, 2, memory_limit(values));
  AtomicFolder folder(output);
  trainer::write_model(folder.path(), inference.session(), source, trainer::parse_dtype(dtype), true);
  folder.commit();
  std::printf("%s\n", output.c_str());
  return 0;
}

}  // namespace tenon::cli
