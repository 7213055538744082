// The tensors in which bitsandbytes and transformers store an 8-bit weight, and their quantization_config.
#pragma once

#include <string>

#include "tenon/quantizer.h"

namespace tenon::llm_int8 {

// Components of a [m, n] weight: codes i8, scale f32 [m].
void to_external(const tn_target& target, tn_tensor* const* components, void* context, int32_t (*put)(void*, const char*, const tn_tensor*));
void from_external(const tn_target& target, void* context, const tn_tensor* (*get)(void*, const char*), tn_tensor* const* components);

std::string config_text(float threshold);
// "threshold=6" from a quantization_config.
std::string hypers_text(const char* config);

}  // namespace tenon::llm_int8
