// The flags that choose a mix of plugins, a model and a device, shared by every command that computes.
#pragma once

#include "hosts/cli/arguments.h"
#include "hosts/trainer/run/inference.h"
#include "hosts/trainer/text/text_model.h"

namespace tenon::cli {

// Adds --adapter-from, --quantizer, --attention, --device, --dtype and --memory-limit; training adds --optimizer and --adapter.
void add_mix_flags(po::options_description& options, bool training);
// --embeddings, of commands whose model is not written anywhere.
void add_embedding_flag(po::options_description& options);
void add_model_flags(po::options_description& options);

// The mix that the flags ask for. A model whose weights are stored quantized brings its own quantizer, where none is asked for; "none": decoded.
trainer::MixRequest mix_request(const Catalog& catalog, const po::variables_map& values, bool training);
// The type of weights that a command writes: --dtype, which may be f16 too, or that of the model's own file.
tn_dtype written_dtype(const po::variables_map& values, const trainer::ModelSource& source);
trainer::ModelSource open_model(const po::variables_map& values);
// Tokenizer and chat template of the model, or those of --tokenizer; bytes for a preset without one. Throws Error where an id of it is beyond the
// model's embedding.
trainer::TextModel open_text_model(const po::variables_map& values, const trainer::ModelSource& source);
// The model with its adapters and quantized weights, calibrated where the quantizer asks for it; shows progress.
trainer::Inference open_inference(trainer::Runtime& runtime, const trainer::ModelSource& source, const po::variables_map& values, int64_t longest_sequence,
                                  bool order_segments = false);
uint64_t memory_limit(const po::variables_map& values);
void apply_threads(const po::variables_map& values);

// Whole content of a text file of at most 1 GiB, checked to be UTF-8 by its users. Throws Error naming the flag and path.
std::string read_text(const std::string& path, const std::string& flag);

}  // namespace tenon::cli
