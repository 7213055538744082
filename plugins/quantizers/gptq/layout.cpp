// The folder format of GPTQ tools (AutoGPTQ, GPTQModel, transformers): sdk/integer/gptq_layout.h has the tensors, this file the
// configuration.
#include <nlohmann/json.hpp>

#include "quantizers/gptq/codec.h"
#include "sdk/integer/gptq_layout.h"

namespace tenon::gptq {
namespace {

using Json = nlohmann::json;
using Holder = sdk::QuantizerThunks<Codec>::Holder;

void require_layout(const char* layout) {
  if (std::strcmp(layout, "gptq") != 0) sdk::fail(TN_E_UNSUPPORTED, std::string("gptq speaks the layout gptq, not ") + layout);
}

int32_t to_external(tn_quantizer* self, const char* layout, const tn_target* target, tn_tensor* const* components, void* context, sdk::GptqLayout::Put put) {
  Holder* holder = reinterpret_cast<Holder*>(self);
  return sdk::guard(holder->host, [&] {
    require_layout(layout);
    const Options& o = holder->codec.options();
    const Sizes s(*target, o);
    sdk::GptqLayout(*target, s, o.second_layout).write(Parts(s, components), context, put);
  });
}

int32_t from_external(tn_quantizer* self, const char* layout, const tn_target* target, void* context, sdk::GptqLayout::Get get, tn_tensor* const* components) {
  Holder* holder = reinterpret_cast<Holder*>(self);
  return sdk::guard(holder->host, [&] {
    require_layout(layout);
    const Options& o = holder->codec.options();
    const Sizes s(*target, o);
    sdk::GptqLayout(*target, s, o.second_layout).read(context, get, Parts(s, components));
  });
}

std::string config_text(const Options& o) {
  return Json{{"quant_method", "gptq"},
              {"bits", o.grid.bits},
              {"group_size", o.group_size},
              {"damp_percent", o.damping},
              {"desc_act", o.act_order},
              {"static_groups", o.static_groups},
              {"sym", o.grid.symmetric},
              {"true_sequential", true},
              {"lm_head", false},
              {"pack_dtype", "int32"},
              {"checkpoint_format", o.second_layout ? "gptq_v2" : "gptq"},
              {"meta", {{"quantizer", {"tenon:0.9.0"}}}}}
      .dump();
}

[[noreturn]] void refuse(const std::string& why) { sdk::fail(TN_E_UNSUPPORTED, "quantization_config: " + why + "; start from the plain model"); }

int64_t whole(const Json& j, const char* key, int64_t otherwise) {
  const auto it = j.find(key);
  if (it == j.end() || it->is_null()) return otherwise;
  if (!it->is_number_integer()) sdk::fail(TN_E_FORMAT, std::string("quantization_config: ") + key + " is not a whole number");
  return it->get<int64_t>();
}

bool flag(const Json& j, const char* key) {
  const auto it = j.find(key);
  return it != j.end() && it->is_boolean() && it->get<bool>();
}

std::string text(const Json& j, const char* key, const std::string& otherwise) {
  const auto it = j.find(key);
  return it != j.end() && it->is_string() ? it->get<std::string>() : otherwise;
}

std::string hypers_text(const char* config) {
  const Json j = Json::parse(config, nullptr, false);
  if (!j.is_object()) sdk::fail(TN_E_FORMAT, "quantization_config is not a JSON object");
  const int64_t bits = whole(j, "bits", 4), group = whole(j, "group_size", 128);
  if (bits != 2 && bits != 3 && bits != 4 && bits != 8) refuse("bits " + std::to_string(bits) + " is not one of 2, 3, 4, 8");
  if (group != -1 && group != 32 && group != 64 && group != 128) refuse("group_size " + std::to_string(group) + " is not one of -1, 32, 64, 128");
  const std::string format = text(j, "checkpoint_format", text(j, "format", "gptq"));
  if (format != "gptq" && format != "gptq_v2") refuse("checkpoint_format \"" + format.substr(0, 40) + "\" is not one of gptq, gptq_v2");
  if (text(j, "pack_dtype", "int32") != "int32") refuse("pack_dtype is not int32");
  if (flag(j, "lm_head")) refuse("the head is quantized too");
  if (const auto dynamic = j.find("dynamic"); dynamic != j.end() && dynamic->is_object() && !dynamic->empty()) refuse("\"dynamic\" gives layers options of their own");
  const auto word = [](bool b) { return std::string(b ? "true" : "false"); };
  return "bits=" + std::to_string(bits) + ",group_size=" + std::to_string(group) + ",sym=" + word(flag(j, "sym")) + ",act_order=" + word(flag(j, "desc_act")) +
         ",static_groups=" + word(flag(j, "static_groups")) + ",checkpoint_format=" + format;
}

void send(const tn_sink& sink, const std::string& s) { sdk::check(sink.write(sink.self, s.data(), s.size())); }

int32_t write_config(tn_quantizer* self, const char* layout, const tn_sink* sink) {
  Holder* holder = reinterpret_cast<Holder*>(self);
  return sdk::guard(holder->host, [&] {
    require_layout(layout);
    send(*sink, config_text(holder->codec.options()));
  });
}

int32_t read_config(const tn_host* host, const char* layout, const char* config, const tn_sink* hypers) {
  return sdk::guard(host, [&] {
    require_layout(layout);
    send(*hypers, hypers_text(config));
  });
}

constexpr const char* kNames[] = {"gptq", nullptr};

}  // namespace

const tn_layout kLayout{TN_SIZE_TO(tn_layout, read_config), 0, kNames, to_external, from_external, write_config, read_config};

}  // namespace tenon::gptq
