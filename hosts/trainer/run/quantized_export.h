// Quantized models in the formats of other tools.
#pragma once

#include <string>

#include "hosts/trainer/run/runtime.h"

namespace tenon::trainer {

struct QuantizedSize {
  uint64_t total_bytes = 0, quantized_bytes = 0, quantized_weights = 0;
};

// A GGUF file whose linear weights hold the codec's blocks. The source must be GGUF, whose metadata and other tensors are kept as they
// are; the codec must be one that declares GGUF layouts.
QuantizedSize write_quantized_gguf(const std::string& path, Session& session, const ModelSource& source, const Runtime& runtime);

// A Hugging Face folder in the external layout that the codec offers through org.tenon.layout/1.
QuantizedSize write_quantized_folder(const std::string& folder, Session& session, const ModelSource& source, const Runtime& runtime);

}  // namespace tenon::trainer
