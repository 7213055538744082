// Techniques: instances of plugins on a session.
#include "core/c_api/guard.h"
#include "core/c_api/objects.h"
#include "core/error.h"
#include "core/plugins/host.h"
#include "core/plugins/kinds.h"

using namespace tenon;
using c_api::guard;
using c_api::need;
using c_api::table;

namespace {

// Calls create of the table `Api` with whatever stands between the hypers and the result.
template <class Api, class Handle, class... More>
void create(tn_technique& technique, More... more) {
  const HyperArray hypers(technique.spec);
  Handle* instance = nullptr;
  check(table<Api>(technique).create(host(), hypers.data(), hypers.size(), more..., &instance),
        technique.spec.id + " cannot be made");
  technique.instance = instance;
}

std::unique_ptr<tn_technique> prepare(tn_session* session, uint32_t kind, const char* spec) {
  need(session, "session");
  need(spec, "spec");
  Spec parsed = session->catalog.spec(kind, spec);
  LoadedPlugin plugin = session->catalog.load(parsed.id, session->device.backend());
  return std::unique_ptr<tn_technique>(new tn_technique{*session, std::move(plugin), std::move(parsed)});
}

}  // namespace

tn_technique::~tn_technique() {
  if (!instance) return;
  session.device.api().stream_wait(session.device.handle(), session.stream.handle());
  switch (plugin.kind()) {
    case TN_KIND_OPTIMIZER:
      table<tn_optimizer_api>(*this).destroy(static_cast<tn_optimizer*>(instance));
      break;
    case TN_KIND_ADAPTER:
      table<tn_adapter_api>(*this).destroy(static_cast<tn_adapter*>(instance));
      break;
    case TN_KIND_QUANTIZER:
      table<tn_quantizer_api>(*this).destroy(static_cast<tn_quantizer*>(instance));
      break;
    case TN_KIND_ATTENTION:
      table<tn_attention_api>(*this).destroy(static_cast<tn_attention*>(instance));
      break;
  }
}

int32_t tn_technique_create(tn_session* session, uint32_t kind, const char* spec, tn_technique** out) {
  return guard([&] {
    need(out, "out");
    if (kind != TN_KIND_OPTIMIZER && kind != TN_KIND_ADAPTER && kind != TN_KIND_QUANTIZER) {
      throw Error(TN_E_ARGUMENT, "tn_technique_create makes optimizers, adapters and quantizers, not the kind " +
                                     std::string(kind_name(kind)) + "; attention is made by tn_attention_create");
    }
    auto technique = prepare(session, kind, spec);
    if (kind == TN_KIND_OPTIMIZER) create<tn_optimizer_api, tn_optimizer>(*technique);
    if (kind == TN_KIND_ADAPTER) create<tn_adapter_api, tn_adapter>(*technique, static_cast<const char*>(nullptr));
    if (kind == TN_KIND_QUANTIZER) create<tn_quantizer_api, tn_quantizer>(*technique);
    *out = technique.release();
  });
}

int32_t tn_attention_create(tn_session* session, const char* spec, const tn_attention_config* config,
                            tn_technique** out) {
  return guard([&] {
    need(config, "config");
    need(out, "out");
    if (!TN_HAS(config, tn_attention_config, softcap))
      throw Error(TN_E_ARGUMENT, "tn_attention_config.struct_size is not set");
    if (config->n_kv_heads == 0 || config->n_heads % config->n_kv_heads != 0) {
      throw Error(TN_E_ARGUMENT, std::to_string(config->n_heads) + " heads cannot share " +
                                     std::to_string(config->n_kv_heads) +
                                     " key heads; the second number must divide the first");
    }
    auto technique = prepare(session, TN_KIND_ATTENTION, spec);
    technique->attention = *config;
    technique->attention.struct_size = TN_SIZE_TO(tn_attention_config, softcap);
    create<tn_attention_api, tn_attention>(*technique, static_cast<const tn_attention_config*>(&technique->attention));
    *out = technique.release();
  });
}

void tn_technique_destroy(tn_technique* technique) {
  delete technique;
}

int32_t tn_technique_spec(tn_technique* technique, char** spec) {
  return guard([&] {
    need(technique, "technique");
    need(spec, "spec");
    *spec = c_api::copy_text(canonical(technique->spec));
  });
}

const tn_plugin* tn_technique_plugin(tn_technique* technique) {
  return technique ? &technique->plugin.descriptor() : nullptr;
}
void* tn_technique_instance(tn_technique* technique) {
  return technique ? technique->instance : nullptr;
}
