// tenon quantize: write a model with its weights quantized, for other tools.
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "hosts/cli/command.h"
#include "hosts/cli/mix_flags.h"
#include "hosts/cli/output.h"
#include "hosts/cli/progress.h"
#include "hosts/trainer/run/edits.h"
#include "hosts/trainer/run/features.h"
#include "hosts/trainer/run/quantized_export.h"

namespace tenon::cli {
namespace {

// Writes the model that a quantizer makes out of this one, in f32 whatever the file is written in.
trainer::QuantizedSize edit(const std::string& output, trainer::Runtime& runtime, const trainer::ModelSource& source, const po::variables_map& values) {
  if (source.is_preset()) throw Error(TN_E_UNSUPPORTED, source.path() + " has random weights, which are not worth writing; train it first");
  if (output.ends_with(".gguf")) throw Error(TN_E_UNSUPPORTED, "--output " + output + ": GGUF has no place for the shape of an edited model; name a folder");
  const trainer::CalibrationText text = read_calibration(runtime, value_or<std::string>(values, "calibration", ""), open_text_model(values, source));
  ProgressLine progress("editing");
  trainer::Inference inference(runtime, source, trainer::kF32, 2, memory_limit(values), text,
                               [&](size_t done, size_t of) { progress.update(static_cast<double>(done) / static_cast<double>(of), ""); });
  progress.clear();
  trainer::QuantizedSize size;
  size.total_bytes = write_edited(output, inference.session(), source, written_dtype(values, source));
  const trainer::ModelConfig &before = source.config(), &after = inference.model().config();
  size.notes.push_back(with_commas(before.parameters()) + " parameters became " + with_commas(after.parameters()) +
                       (before.tied && !after.tied ? "; embedding and head, which were one weight, are two now" : ""));
  return size;
}

}  // namespace

int run_quantize(const std::vector<std::string>& arguments) {
  po::options_description options("Flags");
  add_model_flags(options);
  auto add = options.add_options();
  add("output", po::value<std::string>(), "a .gguf file, or a folder: in the codec's external layout, or of an edited model; must not exist");
  add_mix_flags(options, false);
  add("json", "print {\"output\", \"bytes\", \"bits_per_weight\", \"fallbacks\", \"notes\"}");
  po::variables_map values;
  if (!parse(arguments, options, {},
             "tenon quantize --model M --quantizer gguf-blocks:type=Q4_K --output M.Q4_K.gguf\n"
             "tenon quantize --model M --quantizer nf4:double_quant=true --output M-nf4\n"
             "tenon quantize --model M --quantizer slicegpt:sparsity=0.25 --calibration T --output M-sliced\n\n"
             "Quantizes the seven linear weights of every block and writes the model, one weight in memory at a time: as a GGUF file with tokenizer and\n"
             "metadata, from a Hugging Face folder or another GGUF file, or as a Hugging Face folder in the external layout of the codec (nf4:\n"
             "bitsandbytes). Embedding, head and norms keep their precision. Rows that do not fill the blocks of a GGUF type are held in the type that\n"
             "GGUF writers take instead (Q4_K: Q5_0, Q6_K: Q8_0 …), and the output says how many.\n",
             values))
    return 0;
  const std::string output = required(values, "output");
  required(values, "quantizer");
  if (values.count("adapter-from")) throw Usage("quantize does not take an adapter; `tenon merge --output-quantizer` merges it and quantizes the result");
  std::error_code ec;
  if (std::filesystem::exists(output, ec)) throw Error(TN_E_CONFLICT, "--output " + output + " exists already; choose another name");
  apply_threads(values);
  const Catalog catalog = trainer::open_catalog();
  trainer::Runtime runtime(catalog, mix_request(catalog, values, false));
  const trainer::ModelSource source = open_model(values);
  const auto set = runtime.instantiate();
  const bool json = values.count("json") > 0;
  if (runtime.edits()) {
    print_written(output, edit(output, runtime, source, values), json);
    return 0;
  }
  const trainer::Quantizer* quantizer = set->techniques.quantizer;
  if (quantizer && (quantizer->text_sequences() > 0 || quantizer->segments)) {  // coded with text in view, in the model
    trainer::Inference inference = open_inference(runtime, source, values, 2, true);
    const trainer::ExportWeights weights = weights_of(inference.session(), false);
    print_written(output, write_quantized(output, inference.engine(), weights, source, runtime, inference.session().techniques(), written_dtype(values, source), inference.session().segment_order()), json);
    return 0;
  }
  const auto engine = runtime.engine(trainer::kF32, memory_limit(values), false);
  const trainer::ExportWeights weights = weights_of(*engine, source, runtime, set->techniques);
  print_written(output, write_quantized(output, *engine, weights, source, runtime, set->techniques, written_dtype(values, source)), json);
  return 0;
}

}  // namespace tenon::cli
