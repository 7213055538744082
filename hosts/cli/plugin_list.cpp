// tenon plugin list, info: what is installed.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/catalog/catalog.h"
#include "core/files/json.h"
#include "core/packages/signature.h"
#include "core/plugins/kinds.h"
#include "hosts/cli/output.h"
#include "hosts/cli/plugin_verbs.h"

namespace tenon::cli {
namespace {

std::string joined(const std::vector<std::string>& parts, const char* between = ", ") {
  std::string out;
  for (const std::string& part : parts) out += (out.empty() ? "" : between) + part;
  return out;
}

void print_relations(const char* title, const std::vector<Relation>& relations) {
  for (const Relation& r : relations) std::printf("%-12s %s: %s\n", title, r.tag.c_str(), r.reason.c_str());
}

}  // namespace

int plugin_list(const po::variables_map& values) {
  PluginFilter filter;
  if (values.count("kind")) {
    filter.kind = values["kind"].as<std::string>();
    if (kind_from_name(filter.kind) == TN_KIND_UNDEFINED)
      throw Usage("--kind " + filter.kind + " is not one of " + kPluginKinds);
  }
  const std::vector<PluginRow> rows = Catalog::open_default().list(filter);
  if (values.count("json")) {
    std::string out;  // of a few rows at a time
    const auto write = [&] { std::fwrite(out.data(), 1, out.size(), stdout), out.clear(); };
    for (const PluginRow& r : rows) {
      const auto field = [&](const char* name, std::string_view value) { out += name, append_json(out, value); };
      out += &r == rows.data() ? "[\n " : ",\n ";
      field("{\"id\": ", r.id), field(", \"kind\": ", kind_name(r.kind)), field(", \"version\": ", r.version);
      field(", \"name\": ", r.name), field(", \"summary\": ", r.summary);
      out += ", \"backends\": [";
      for (size_t i = 0; i < r.backends.size(); ++i) field(i > 0 ? ", " : "", r.backends[i]);
      field("], \"store\": ", r.store), out += '}';
      if (out.size() > 1 << 16) write();
    }
    out += rows.empty() ? "[]\n" : "\n]\n";
    write();
    return 0;
  }
  size_t id = 2, version = 7, backends = 8;
  for (const PluginRow& r : rows)
    id = std::max(id, r.id.size()), version = std::max(version, r.version.size()),
    backends = std::max(backends, joined(r.backends).size());
  const auto line = [&](std::string_view kind, const std::string& i, const std::string& v, const std::string& b,
                        const std::string& summary) {
    std::printf("%-10.*s %-*s  %-*s  %-*s  %s\n", static_cast<int>(kind.size()), kind.data(), static_cast<int>(id),
                i.c_str(), static_cast<int>(version), v.c_str(), static_cast<int>(backends), b.c_str(),
                summary.c_str());
  };
  if (rows.empty()) return remark("no plugin is installed; `tenon plugin install PATH` installs one"), 0;
  line("KIND", "ID", "VERSION", "BACKENDS", "WHAT IT IS");
  for (const PluginRow& r : rows) line(kind_name(r.kind), r.id, r.version, joined(r.backends), r.summary);
  return 0;
}

int plugin_info(const po::variables_map& values) {
  const Catalog catalog = Catalog::open_default();
  const Manifest m = catalog.info(required(values, "argument"));
  const std::string folder = catalog.folder(m.id);
  const std::optional<PublicKey> signer = check_signature(folder, m);
  if (values.count("json")) {
    Json out = Json::parse(manifest_text(m));
    out["signer"] = signer ? Json{{"key_id", signer->id()}, {"owner", signer->owner}} : Json();
    out["folder"] = folder;
    out["backends"] = m.backends();
    print_json(out);
    return 0;
  }
  std::printf("%s %s: %s\n%s\n\n", m.id.c_str(), m.version.c_str(), m.name.c_str(), m.summary.c_str());
  std::printf("%-12s %s\n%-12s %s\n", "kind", std::string(kind_name(m.kind)).c_str(), "license", m.license.c_str());
  if (!m.paper.title.empty())
    std::printf("%-12s %s (%d) %s\n", "paper", m.paper.title.c_str(), static_cast<int>(m.paper.year),
                m.paper.url.c_str());
  std::printf("%-12s %u.%u\n%-12s %s\n", "ABI", m.abi_major, m.abi_minor, "folder", folder.c_str());
  if (signer) std::printf("%-12s %s\n", "signed by", words(*signer).c_str());
  for (const ObjectFile& o : m.objects)
    std::printf("%-12s %s for %s on %s%s%s\n", "object", o.file.c_str(), o.backend.c_str(), o.arch.c_str(),
                o.cpu.empty() ? "" : ", needs ", joined(o.cpu).c_str());
  if (!m.provides.empty()) std::printf("%-12s %s\n", "provides", joined(m.provides).c_str());
  if (!m.layouts.empty()) std::printf("%-12s %s\n", "layouts", joined(m.layouts).c_str());
  print_relations("requires", m.requires_);
  print_relations("conflicts", m.conflicts);
  if (!m.hypers.empty())
    std::printf("\nParameters, as in %s:%s=%s\n", m.id.c_str(), m.hypers[0].name.c_str(),
                m.hypers[0].default_value.c_str());
  size_t width = 0;
  for (const HyperInfo& h : m.hypers) width = std::max(width, h.name.size() + h.default_value.size() + 1);
  for (const HyperInfo& h : m.hypers)
    std::printf("  %-*s  %s; %s%s%s\n", static_cast<int>(width), (h.name + "=" + h.default_value).c_str(),
                h.doc.c_str(), describe(h).c_str(), h.unit.empty() ? "" : ", in ", h.unit.c_str());
  return 0;
}

}  // namespace tenon::cli
