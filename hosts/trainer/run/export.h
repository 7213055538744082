// Finished models and adapters in the formats of the field: Hugging Face folders and PEFT folders.
#pragma once

#include <string>

#include "hosts/trainer/run/session.h"

namespace tenon::trainer {

// Fills `folder` (existing, empty) with config.json, safetensors and, unless another one follows, the tokenizer's files of the source. Quantized weights are decoded; with
// merge, the deltas of all adapters are added in f32 before the one rounding to dtype.
void write_model(const std::string& folder, Session& session, const ModelSource& source, tn_dtype dtype, bool merge, bool tokenizer = true);
// "float32", "bfloat16" or "float16": a dtype in config.json.
const char* dtype_name(tn_dtype dtype);

// Fills `folder` with adapter_config.json and adapter_model.safetensors as PEFT reads them. base: base_model_name_or_path.
void write_adapter(const std::string& folder, Session& session, const Adapter& adapter, const std::string& base);

// Fills an adapter's parameters from its folder. Missing, unexpected and misshapen tensors are errors that name them.
void read_adapter(Session& session, Adapter& adapter, const std::string& folder);

}  // namespace tenon::trainer
