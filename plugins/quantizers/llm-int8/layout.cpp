// MODULE.weight holds the codes, MODULE.SCB the largest magnitude of each row, and MODULE.weight_format 0: rows as they are.
#include "quantizers/llm-int8/layout.h"

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "sdk/codec.h"

namespace tenon::llm_int8 {
namespace {

using Json = nlohmann::json;

constexpr const char *kScales = "../SCB", *kFormat = "../weight_format";

[[noreturn]] void refuse(const tn_target& target, const char* suffix, const std::string& why) { sdk::fail(TN_E_FORMAT, sdk::name_of(target) + " (" + suffix + "): " + why); }

// A tensor of exactly n elements of this type, contiguous.
template <class T>
const T* found(const tn_target& target, const tn_tensor* t, const char* suffix, tn_dtype dtype, int64_t n) {
  if (!t) refuse(target, suffix, "the file has no such tensor, which a bitsandbytes weight in 8 bits needs");
  if (!sdk::same(t->dtype, dtype)) refuse(target, suffix, "the tensor has another type than bitsandbytes gives it");
  if (!sdk::is_contiguous(*t) || sdk::count(*t) != n) refuse(target, suffix, "the tensor has " + std::to_string(sdk::count(*t)) + " elements where " + std::to_string(n) + " belong");
  return sdk::data<const T>(*t);
}

bool flag(const Json& j, const char* key) {
  const auto it = j.find(key);
  return it != j.end() && it->is_boolean() && it->get<bool>();
}

}  // namespace

void to_external(const tn_target& target, tn_tensor* const* components, void* context, int32_t (*put)(void*, const char*, const tn_tensor*)) {
  const int64_t m = target.shape[0], n = target.shape[1];
  int64_t shape[2] = {m, n}, strides[2] = {n, 1}, one[1] = {1};
  const tn_tensor codes{sdk::component<int8_t>(components, 0, "codes", m * n), {TN_CPU, 0}, 2, sdk::kI8, shape, strides, 0};
  const tn_tensor scales{sdk::component<float>(components, 1, "scale", m), {TN_CPU, 0}, 1, sdk::kF32, shape, one, 0};
  uint8_t rows = 0;
  const tn_tensor format{&rows, {TN_CPU, 0}, 0, sdk::kU8, shape, strides, 0};
  sdk::check(put(context, "", &codes)), sdk::check(put(context, kScales, &scales)), sdk::check(put(context, kFormat, &format));
}

void from_external(const tn_target& target, void* context, const tn_tensor* (*get)(void*, const char*), tn_tensor* const* components) {
  const int64_t m = target.shape[0], n = target.shape[1];
  const int8_t* codes = found<int8_t>(target, get(context, ""), "codes", sdk::kI8, m * n);
  const float* scales = found<float>(target, get(context, kScales), "SCB", sdk::kF32, m);
  if (const tn_tensor* format = get(context, kFormat); format && *found<uint8_t>(target, format, "weight_format", sdk::kU8, 1) != 0)
    refuse(target, "weight_format", "the codes lie in an order of some GPUs; save the model again with a newer bitsandbytes");
  for (int64_t i = 0; i < m; ++i)
    if (!(scales[i] >= 0 && std::isfinite(scales[i]))) refuse(target, "SCB", "the scale of row " + std::to_string(i) + " is not a finite magnitude");
  std::memcpy(sdk::component<int8_t>(components, 0, "codes", m * n), codes, static_cast<size_t>(m * n));
  std::memcpy(sdk::component<float>(components, 1, "scale", m), scales, static_cast<size_t>(m) * sizeof(float));
}

std::string config_text(float threshold) {
  return Json{{"quant_method", "bitsandbytes"},
              {"_load_in_4bit", false},
              {"_load_in_8bit", true},
              {"load_in_4bit", false},
              {"load_in_8bit", true},
              {"llm_int8_threshold", threshold},
              {"llm_int8_has_fp16_weight", false},
              {"llm_int8_enable_fp32_cpu_offload", false}}
      .dump();
}

std::string hypers_text(const char* config) {
  const Json j = Json::parse(config, nullptr, false);
  if (!j.is_object()) sdk::fail(TN_E_FORMAT, "quantization_config is not a JSON object");
  if (flag(j, "load_in_4bit") || !flag(j, "load_in_8bit"))
    sdk::fail(TN_E_UNSUPPORTED, "quantization_config: of bitsandbytes' models llm-int8 reads those with load_in_8bit");
  if (flag(j, "llm_int8_has_fp16_weight")) sdk::fail(TN_E_UNSUPPORTED, "quantization_config: llm_int8_has_fp16_weight keeps weights that are not in 8 bits; start from the plain model");
  const auto threshold = j.find("llm_int8_threshold");
  if (threshold == j.end() || threshold->is_null()) return "threshold=6";
  if (!threshold->is_number() || !(threshold->get<double>() >= 0)) sdk::fail(TN_E_FORMAT, "quantization_config: llm_int8_threshold is not a number of at least 0");
  return "threshold=" + threshold->dump();
}

}  // namespace tenon::llm_int8
