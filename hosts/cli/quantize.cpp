// tenon quantize: write a model with its weights quantized, for other tools.
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "hosts/cli/command.h"
#include "hosts/cli/mix_flags.h"
#include "hosts/cli/output.h"
#include "hosts/trainer/run/features.h"
#include "hosts/trainer/run/inference.h"
#include "hosts/trainer/run/quantized_export.h"

namespace tenon::cli {

int run_quantize(const std::vector<std::string>& arguments) {
  po::options_description options("Flags");
  add_model_flags(options);
  auto add = options.add_options();
  add("output", po::value<std::string>(), "a .gguf file, or a Hugging Face folder in the codec's external layout; must not exist");
  add_mix_flags(options, false);
  add("json", "print {\"output\", \"bytes\", \"bits_per_weight\"}");
  po::variables_map values;
  if (!parse(arguments, options, {},
             "tenon quantize --model M --quantizer gguf-blocks:type=Q4_K --output M.Q4_K.gguf\n\n"
             "Quantizes the seven linear weights of every block and writes the model: as GGUF (from a GGUF model, whose metadata and tokenizer are kept), or as a\n"
             "Hugging Face folder in the external layout of the codec (nf4: bitsandbytes). Embedding, head and norms keep their precision.\n",
             values))
    return 0;
  const std::string output = required(values, "output");
  required(values, "quantizer");
  std::error_code ec;
  if (std::filesystem::exists(output, ec)) throw Error(TN_E_CONFLICT, "--output " + output + " exists already; choose another name");
  const Catalog catalog = trainer::open_catalog();
  trainer::Runtime runtime(catalog, mix_request(values, false));
  const trainer::ModelSource source = open_model(values);
  trainer::Inference inference = open_inference(runtime, source, values, 2);
  const trainer::QuantizedSize size = output.ends_with(".gguf") ? trainer::write_quantized_gguf(output, inference.session(), source, runtime)
                                                                : trainer::write_quantized_folder(output, inference.session(), source, runtime);
  const double bits = 8.0 * static_cast<double>(size.quantized_bytes) / static_cast<double>(size.quantized_weights);
  if (values.count("json"))
    print_json({{"output", output}, {"bytes", size.total_bytes}, {"bits_per_weight", bits}});
  else
    std::printf("%s\n%s in all, %.3f bits per quantized weight\n", output.c_str(), format_bytes(size.total_bytes).c_str(), bits);
  return 0;
}

}  // namespace tenon::cli
