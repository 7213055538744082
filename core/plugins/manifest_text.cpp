#include <cmath>
#include <nlohmann/json.hpp>

#include "core/plugins/kinds.h"
#include "core/plugins/manifest.h"

namespace tenon {
namespace {

using Ordered = nlohmann::ordered_json;

Ordered hyper_json(const HyperInfo& info) {
  Ordered json{{"name", info.name}, {"type", type_name(info.type)}, {"default", info.default_value}};
  if (info.type == TN_TYPE_INT || info.type == TN_TYPE_FLOAT) {
    if (std::isfinite(info.min)) json["min"] = info.min;
    if (std::isfinite(info.max)) json["max"] = info.max;
    if (info.flags & TN_RANGE_OPEN_MIN) json["open_min"] = true;
    if (info.flags & TN_RANGE_OPEN_MAX) json["open_max"] = true;
  }
  if (!info.choices.empty()) json["choices"] = info.choices;
  if (!info.unit.empty()) json["unit"] = info.unit;
  if (!info.doc.empty()) json["doc"] = info.doc;
  return json;
}

Ordered object_json(const ObjectFile& object) {
  Ordered json{{"backend", object.backend}, {"file", object.file}, {"sha256", object.sha256}, {"arch", object.arch}};
  if (!object.cpu.empty()) json["cpu"] = object.cpu;
  if (!object.gpu.empty()) json["gpu"] = object.gpu;
  if (!object.runtime.empty()) json["runtime"] = object.runtime;
  return json;
}

Ordered relations_json(const std::vector<Relation>& relations) {
  Ordered json = Ordered::array();
  for (const Relation& relation : relations) json.push_back({{"tag", relation.tag}, {"reason", relation.reason}});
  return json;
}

}  // namespace

std::string manifest_text(const Manifest& m) {
  Ordered json{{"manifest", 1}, {"id", m.id}, {"version", m.version}, {"kind", kind_name(m.kind)}, {"name", m.name}};
  if (!m.summary.empty()) json["summary"] = m.summary;
  if (!m.license.empty()) json["license"] = m.license;
  if (!m.paper.title.empty() || !m.paper.url.empty() || m.paper.year != 0) {
    Ordered& paper = json["paper"] = Ordered::object();
    if (!m.paper.title.empty()) paper["title"] = m.paper.title;
    if (m.paper.year != 0) paper["year"] = m.paper.year;
    if (!m.paper.url.empty()) paper["url"] = m.paper.url;
  }
  json["abi"] = std::to_string(m.abi_major) + '.' + std::to_string(m.abi_minor);
  json["objects"] = Ordered::array();
  for (const ObjectFile& object : m.objects) json["objects"].push_back(object_json(object));
  json["hypers"] = Ordered::array();
  for (const HyperInfo& info : m.hypers) json["hypers"].push_back(hyper_json(info));
  json["provides"] = m.provides;
  json["requires"] = relations_json(m.requires_);
  json["conflicts"] = relations_json(m.conflicts);
  if (!m.layouts.empty()) json["layouts"] = m.layouts;
  return json.dump(2) + '\n';
}

}  // namespace tenon
