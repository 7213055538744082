// Models in the formats of other tools: GGUF files, and folders in an external layout of a codec.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "hosts/trainer/run/export_weights.h"

namespace tenon::trainer {

struct QuantizedSize {
  uint64_t total_bytes = 0, quantized_bytes = 0, quantized_weights = 0;
  std::map<std::string, int64_t> fallbacks;  // type taken instead, where rows do not fill the blocks of the one asked for -> tensors
  std::vector<std::string> notes;            // sentences for the user
};

// F32, BF16 or F16.
const GgmlType& plain_ggml_type(tn_dtype dtype);

// A GGUF file. The linear weights of the blocks are held in `linear` (a GGUF type; rows that do not fill its blocks in the type that GGUF
// writers take instead), other matrices as in a GGUF source, else in `dtype`; vectors in f32. Metadata, tokenizer and chat template come from the source.
QuantizedSize write_gguf(const std::string& path, Engine& engine, const ExportWeights& weights, const ModelSource& source, const WeightDecoder& codecs,
                         const GgmlType& linear, tn_dtype dtype);

// How a folder holds coded weights: in the external layout that the quantizer offers through org.tenon.layout/1 and other tools read, else (and
// with kComponents in any case) with the components as they are, which the same quantizer goes on with.
enum class FolderForm { kLayout, kComponents };

// Fills an empty folder as a Hugging Face one; what is not coded is in `dtype`. segment_order: of weights that come in segments.
QuantizedSize fill_quantized_folder(const std::string& folder, Engine& engine, const ExportWeights& weights, const ModelSource& source,
                                    const Runtime& runtime, const Quantizer& quantizer, tn_dtype dtype, FolderForm form,
                                    const std::vector<int32_t>& segment_order = {});

// A .gguf file of the runtime's quantizer's type, or a folder, by the name of the output. Weights whose scales are still to be trained
// (org.tenon.trainable/1) keep their components.
QuantizedSize write_quantized(const std::string& output, Engine& engine, const ExportWeights& weights, const ModelSource& source, const Runtime& runtime,
                              const Techniques& techniques, tn_dtype dtype, const std::vector<int32_t>& segment_order = {});

}  // namespace tenon::trainer
