// For other tools a trained weight is one of GPTQ's: the same integers, zero points as they are (version 2), scales
// rounded to f16 where training left them in f32.
#include <nlohmann/json.hpp>

#include "quantizers/efficientqat/codec.h"
#include "sdk/integer/gptq_layout.h"

namespace tenon::efficientqat {
namespace {

using Holder = sdk::QuantizerThunks<Codec>::Holder;

void require_layout(const char* layout) {
  if (std::strcmp(layout, "gptq") != 0) sdk::fail(TN_E_UNSUPPORTED, std::string("efficientqat speaks the layout gptq, not ") + layout);
}

int32_t to_external(tn_quantizer* self, const char* layout, const tn_target* target, tn_tensor* const* components, void* context, sdk::GptqLayout::Put put) {
  Holder* holder = reinterpret_cast<Holder*>(self);
  return sdk::guard(holder->host, [&] {
    require_layout(layout);
    const Sizes s(*target, holder->codec.options());
    sdk::GptqLayout(*target, s, true).write(Parts(s, components), context, put);
  });
}

int32_t from_external(tn_quantizer* self, const char* layout, const tn_target* target, void* context, sdk::GptqLayout::Get get, tn_tensor* const* components) {
  Holder* holder = reinterpret_cast<Holder*>(self);
  return sdk::guard(holder->host, [&] {
    require_layout(layout);
    const Sizes s(*target, holder->codec.options());
    sdk::GptqLayout(*target, s, true).read(context, get, Parts(s, components));
  });
}

int32_t write_config(tn_quantizer* self, const char* layout, const tn_sink* sink) {
  Holder* holder = reinterpret_cast<Holder*>(self);
  return sdk::guard(holder->host, [&] {
    const Options& o = holder->codec.options();
    require_layout(layout);
    const std::string text = nlohmann::json{{"quant_method", "gptq"},
                                            {"bits", o.bits},
                                            {"group_size", o.group_size},
                                            {"desc_act", false},
                                            {"sym", false},
                                            {"lm_head", false},
                                            {"pack_dtype", "int32"},
                                            {"checkpoint_format", "gptq_v2"},
                                            {"meta", {{"quantizer", {"tenon:0.9.0"}}}}}
                                 .dump();
    sdk::check(sink->write(sink->self, text.data(), text.size()));
  });
}

int32_t read_config(const tn_host* host, const char*, const char*, const tn_sink*) {
  return sdk::guard(host, [&] { sdk::fail(TN_E_UNSUPPORTED, "what efficientqat writes for other tools is read by the quantizer gptq"); });
}

constexpr const char* kNames[] = {"gptq", nullptr};

}  // namespace

const tn_layout kLayout{TN_SIZE_TO(tn_layout, read_config), 0, kNames, to_external, from_external, write_config, read_config};

}  // namespace tenon::efficientqat
