// tenon merge: merge an adapter into its model.
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"
#include "core/files/atomic_folder.h"
#include "hosts/cli/command.h"
#include "hosts/cli/mix_flags.h"
#include "hosts/cli/output.h"
#include "hosts/trainer/run/export.h"
#include "hosts/trainer/run/features.h"
#include "hosts/trainer/run/inference.h"
#include "hosts/trainer/run/quantized_export.h"

namespace tenon::cli {

int run_merge(const std::vector<std::string>& arguments) {
  po::options_description options("Flags");
  add_model_flags(options);
  auto add = options.add_options();
  add("output", po::value<std::string>(), "the merged model: a Hugging Face folder, or a .gguf file; must not exist");
  add("output-quantizer", po::value<std::string>(), "quantize the merged weights: gguf-blocks:type=Q8_0 … for a .gguf file, nf4 for a folder");
  add_mix_flags(options, false);
  add("json", "print {\"output\", \"bytes\", …}");
  po::variables_map values;
  if (!parse(arguments, options, {},
             "tenon merge --model M --adapter-from DIR --output DIR\n"
             "tenon merge --model M --adapter-from DIR --output-quantizer gguf-blocks:type=Q4_K --output M.Q4_K.gguf\n\n"
             "Adds the adapter's delta to each weight in f32, rounds once, and writes a Hugging Face folder or a GGUF file. The weights are written in the\n"
             "type of the model's own file unless --dtype (f32, bf16, f16) or --output-quantizer is given. With --quantizer the delta is added to the decoded\n"
             "weights: the function that was trained. Several adapters add up; `tenon combine` weighs them.\n",
             values))
    return 0;
  const std::string output = required(values, "output");
  if (!values.count("adapter-from")) throw Usage("--adapter-from is missing; give the folder of the adapter to merge");
  std::error_code ec;
  if (std::filesystem::exists(output, ec)) throw Error(TN_E_CONFLICT, "--output " + output + " exists already; choose another folder");
  apply_threads(values);
  const Catalog catalog = trainer::open_catalog();
  const trainer::MixRequest request = mix_request(catalog, values, false);
  trainer::Runtime runtime(catalog, request);
  const trainer::ModelSource source = open_model(values);
  const tn_dtype dtype = written_dtype(values, source);
  // The codec of the output is chosen before the model is read: its refusals are the quickest.
  std::optional<trainer::Runtime> coder;
  std::unique_ptr<trainer::TechniqueSet> coding;
  if (values.count("output-quantizer")) {
    trainer::MixRequest coded;
    coded.quantizer = values["output-quantizer"].as<std::string>(), coded.device = request.device;
    coding = coder.emplace(catalog, coded).instantiate();
  }
  // The base is read in f32 so that nothing is rounded before the sum.
  trainer::Inference inference(runtime, source, trainer::kF32, 2, memory_limit(values));
  const trainer::ExportWeights weights = weights_of(inference.session(), true);
  trainer::QuantizedSize size;
  if (coder) {
    size = write_quantized(output, inference.engine(), weights, source, *coder, coding->techniques, dtype);
  } else if (output.ends_with(".gguf")) {
    size = write_gguf(output, inference.engine(), weights, source, {}, trainer::plain_ggml_type(dtype), dtype);
  } else {
    AtomicFolder folder(output);
    trainer::write_model(folder.path(), inference.session(), source, dtype, true);
    folder.commit();
    for (const auto& entry : std::filesystem::directory_iterator(output)) size.total_bytes += entry.file_size();
  }
  print_written(output, size, values.count("json") > 0);
  return 0;
}

}  // namespace tenon::cli
