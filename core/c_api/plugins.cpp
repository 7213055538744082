// Contexts: what is installed and what mixes, as JSON.
#include <nlohmann/json.hpp>

#include "core/c_api/guard.h"
#include "core/c_api/objects.h"
#include "core/error.h"
#include "core/files/bytes.h"
#include "core/plugins/kinds.h"
#include "core/plugins/locations.h"

using namespace tenon;
using c_api::copy_text;
using c_api::guard;
using c_api::need;

namespace {

void give(const Json& json, char** out) {
  *out = copy_text(json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

Store first_store(const tn_context& context) {
  if (context.stores.empty())
    throw Error(TN_E_NOT_FOUND, "there is no store to install into; set the environment variable TENON_HOME");
  return Store(context.stores[0]);
}

}  // namespace

int32_t tn_context_open(const char* const* stores, uint64_t n, tn_context** out) {
  return guard([&] {
    need(out, "out");
    if (n > 0) need(stores, "stores");
    auto context = std::make_unique<tn_context>();
    for (uint64_t i = 0; i < n; ++i) {
      need(stores[i], "stores");
      context->stores.push_back(Store(stores[i]).path());
    }
    if (n == 0) context->stores = {user_store(), bundled_store()};
    std::erase(context->stores, "");
    try {
      context->catalog.emplace(context->stores);
    } catch (const Error& e) {
      // A catalog that is lost or damaged can still be rebuilt through this context.
      if (e.code() != TN_E_NOT_FOUND && e.code() != TN_E_FORMAT) throw;
    }
    *out = context.release();
  });
}

void tn_context_close(tn_context* context) {
  delete context;
}

namespace {

Catalog& catalog_of(tn_context* context) {
  need(context, "context");
  if (!context->catalog) context->catalog.emplace(context->stores);
  return *context->catalog;
}

}  // namespace

int32_t tn_plugin_list(tn_context* context, const char* kind, char** json) {
  return guard([&] {
    need(json, "json");
    if (kind && kind_from_name(kind) == TN_KIND_UNDEFINED) {
      throw Error(
          TN_E_ARGUMENT,
          quote_name(kind) + " is not a kind of plugin; kinds are device, optimizer, adapter, quantizer and attention");
    }
    Json rows = Json::array();
    for (const PluginRow& row : catalog_of(context).list({.kind = kind ? kind : ""})) {
      rows.push_back({{"id", row.id},
                      {"kind", kind_name(row.kind)},
                      {"version", row.version},
                      {"name", row.name},
                      {"summary", row.summary},
                      {"backends", row.backends},
                      {"store", row.store}});
    }
    give(rows, json);
  });
}

int32_t tn_plugin_info(tn_context* context, const char* id, char** json) {
  return guard([&] {
    need(id, "id");
    need(json, "json");
    const Catalog& catalog = catalog_of(context);
    Json manifest = Json::parse(manifest_text(catalog.info(id)));
    manifest["folder"] = catalog.folder(id);
    give(manifest, json);
  });
}

int32_t tn_plugin_install(tn_context* context, const char* folder, char** json) {
  return guard([&] {
    need(context, "context");
    need(folder, "folder");
    need(json, "json");
    const InstallReport report = first_store(*context).install(folder);
    give({{"id", report.manifest.id},
          {"version", report.manifest.version},
          {"replaced", report.replaced},
          {"changed", report.changed},
          {"notes", report.notes}},
         json);
    catalog_of(context).refresh();
  });
}

int32_t tn_plugin_remove(tn_context* context, const char* id) {
  return guard([&] {
    need(context, "context");
    need(id, "id");
    first_store(*context).remove(id);
  });
}

int32_t tn_plugin_verify(tn_context* context, char** json) {
  return guard([&] {
    need(context, "context");
    need(json, "json");
    uint64_t plugins = 0;
    Json problems = Json::array();
    for (const std::string& store : context->stores) {
      uint64_t n = 0;
      for (const VerifyFinding& finding : Store(store).verify(&n))
        problems.push_back({{"id", finding.id}, {"problem", finding.problem}});
      plugins += n;
    }
    give({{"plugins", plugins}, {"problems", problems}}, json);
  });
}

int32_t tn_plugin_rescan(tn_context* context, char** json) {
  return guard([&] {
    need(context, "context");
    need(json, "json");
    const RescanReport report = first_store(*context).rescan();
    give({{"plugins", report.plugins}, {"problems", report.problems}}, json);
    catalog_of(context).refresh();
  });
}

int32_t tn_check(tn_context* context, const uint32_t* kinds, const char* const* specs, uint64_t n,
                 const char* const* run_tags, uint64_t n_tags, char** json) {
  return guard([&] {
    need(json, "json");
    if (n > 0) need(kinds, "kinds"), need(specs, "specs");
    if (n_tags > 0) need(run_tags, "run_tags");
    const Catalog& catalog = catalog_of(context);
    std::vector<Spec> mix;
    Json techniques = Json::array();
    for (uint64_t i = 0; i < n; ++i) {
      need(specs[i], "specs");
      mix.push_back(catalog.spec(kinds[i], specs[i]));
      techniques.push_back(canonical(mix.back()));
    }
    std::vector<std::string> tags = usual_run_tags(catalog, mix);
    for (uint64_t i = 0; i < n_tags; ++i) {
      need(run_tags[i], "run_tags");
      tags.emplace_back(run_tags[i]);
    }
    const MixAnswer answer = catalog.check_mix(mix, tags);
    Json reasons = Json::array();
    for (const MixReason& reason : answer.reasons)
      reasons.push_back({{"plugin", reason.plugin}, {"sentence", reason.sentence}});
    give({{"possible", answer.possible}, {"reasons", reasons}, {"techniques", techniques}}, json);
  });
}
