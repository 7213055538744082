// What a model's folder says of the techniques that it was made with: how its weights are stored, and its attention.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/json.h"
#include "core/plugins/host.h"
#include "hosts/trainer/engine/sinks.h"
#include "hosts/trainer/run/runtime.h"

namespace tenon::trainer {
namespace {

namespace fs = std::filesystem;

// config.json of a model folder and its path; null where there is none.
std::pair<Json, std::string> folder_config(const std::string& model) {
  const std::string path = (fs::path(model) / "config.json").string();
  std::error_code ec;
  if (!fs::is_regular_file(path, ec)) return {nullptr, path};
  JsonLimits limits;
  limits.max_bytes = 16 << 20;
  return {read_json_file(path, limits), path};
}

}  // namespace

std::string stored_attention(const std::string& model) {
  const auto [config, path] = folder_config(model);
  const std::string spec = config.is_object() ? find_string(config, kAttentionKey, path).value_or("") : "";
  return spec.empty() ? kDefaultAttention : spec;
}

std::string stored_quantizer(const Catalog& catalog, const std::string& model) {
  const auto [config, path] = folder_config(model);
  if (!config.is_object()) return {};
  const Json* q = find_object(config, "quantization_config", path);
  if (!q) return {};
  const std::string layout = get_string(*q, "quant_method", path);
  if (layout == kOwnLayout) return canonical(catalog.spec(TN_KIND_QUANTIZER, get_string(*q, "quantizer", path)));
  PluginFilter filter;
  filter.kind = "quantizer", filter.layout = layout;
  std::string reasons;
  for (const PluginRow& row : catalog.list(filter)) {
    if (row.backends.empty()) continue;
    const LoadedPlugin plugin = catalog.load(row.id, row.backends[0]);
    const tn_layout* l = plugin.extension<tn_layout>(TN_EXT_LAYOUT);
    if (!l || !TN_HAS(l, tn_layout, read_config) || !l->read_config) continue;
    std::string hypers;
    const tn_sink sink = append_to(hypers);
    const int32_t status = l->read_config(host(), layout.c_str(), q->dump().c_str(), &sink);
    if (status >= 0) return row.id + (hypers.empty() ? "" : ":" + hypers);
    const Report report = take_report();
    reasons += (reasons.empty() ? ": " : "; ") + report.sentence;
  }
  throw Error(TN_E_UNSUPPORTED, path + ": the weights are stored as \"" + layout.substr(0, 60) + "\", which no installed quantizer reads" +
                                    (reasons.empty() ? "; start from the plain model and pass --quantizer" : reasons));
}

}  // namespace tenon::trainer
