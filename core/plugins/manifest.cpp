#include "core/plugins/manifest.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/files/bytes.h"
#include "core/plugins/kinds.h"
#include "core/plugins/nearest.h"

namespace tenon {
namespace {

constexpr uint64_t kMostBytes = 1 << 20;
constexpr JsonLimits kLimits = {.max_bytes = kMostBytes, .max_values = 100'000, .max_depth = 16, .unique_keys = true};
constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::vector<std::string> texts(const Json& array, const std::string& key, const std::string& what) {
  std::vector<std::string> out;
  for (const Json& entry : array) {
    if (!entry.is_string() || entry.get_ref<const std::string&>().empty()) {
      throw Error(TN_E_FORMAT, what + ": an entry of \"" + key + "\" is not a text");
    }
    out.push_back(entry.get<std::string>());
  }
  return out;
}

class Reader {
 public:
  Reader(const Json& json, const std::string& what, ManifestState state) : json_(json), what_(what), state_(state) {}

  Manifest read() {
    if (!json_.is_object()) refuse("it is not a JSON object");
    const int64_t format = get_int(json_, "manifest", 0, std::numeric_limits<int32_t>::max(), what_);
    if (format != 1)
      refuse("its format \"manifest\" is " + std::to_string(format) + ", but this Tenon reads format 1; update Tenon");
    known(json_, {"manifest", "id", "version", "kind", "name", "summary", "license", "paper", "abi", "objects",
                  "hypers", "provides", "requires", "conflicts", "layouts"});
    head();
    for (const Json& object : list("objects")) read_object(object);
    if (sealed()) {
      if (manifest_.objects.empty()) refuse("it lists no objects; run `tenon-store seal` on the plugin's folder");
      manifest_.hypers = parse_schema(list("hypers"), what_);
    }
    manifest_.provides = tags("provides");
    manifest_.layouts = tags("layouts");
    manifest_.requires_ = relations("requires", true);
    manifest_.conflicts = relations("conflicts", false);
    return std::move(manifest_);
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const { throw Error(TN_E_FORMAT, what_ + ": " + why); }
  bool sealed() const { return state_ == ManifestState::kSealed; }

  void known(const Json& object, const std::vector<std::string>& keys) const {
    if (sealed()) return;
    for (const auto& [key, value] : object.items()) {
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) {
        refuse("the key " + quote_name(key) + " is unknown" + suggestion(key, keys, "known are"));
      }
    }
  }

  std::string text(const Json& object, std::string_view key, size_t most = 4000) const {
    std::string value = find_string(object, key, what_).value_or("");
    if (value.size() > most)
      refuse("\"" + std::string(key) + "\" has " + std::to_string(value.size()) + " bytes, more than " +
             std::to_string(most));
    const auto control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
    if (std::any_of(value.begin(), value.end(), control))
      refuse("\"" + std::string(key) + "\" has a control character");
    return value;
  }

  const Json& list(std::string_view key) const {
    static const Json kEmpty = Json::array();
    const Json* const found = find_array(json_, key, what_);
    return found ? *found : kEmpty;
  }

  void head() {
    manifest_.id = get_string(json_, "id", what_);
    if (!valid_id(manifest_.id))
      refuse("the id " + quote_name(manifest_.id) + " is not valid; use a-z, 0-9, '.', '-' and '_'");
    const std::string kind = get_string(json_, "kind", what_);
    manifest_.kind = kind_from_name(kind);
    if (manifest_.kind == TN_KIND_UNDEFINED) {
      refuse("the kind " + quote_name(kind) + " is unknown" +
             suggestion(kind, {"device", "optimizer", "adapter", "quantizer", "attention"}, "known are"));
    }
    manifest_.version = text(json_, "version");
    if ((sealed() || !manifest_.version.empty()) && !valid_version(manifest_.version)) {
      refuse("the version " + quote_name(manifest_.version) + " is not of the form 1.2.3");
    }
    manifest_.name = text(json_, "name");
    if (manifest_.name.empty()) manifest_.name = manifest_.id;
    manifest_.summary = text(json_, "summary");
    manifest_.license = text(json_, "license");
    if (const Json* const paper = find_object(json_, "paper", what_)) {
      known(*paper, {"title", "year", "url"});
      manifest_.paper.title = text(*paper, "title");
      manifest_.paper.url = text(*paper, "url");
      manifest_.paper.year = find_int(*paper, "year", 1900, 2200, what_).value_or(0);
    }
    abi(text(json_, "abi"));
  }

  void abi(const std::string& version) {
    if (version.empty() && !sealed()) return;
    const std::string full = version + ".0";  // "0.9" has the form of a version without its last number
    if (std::count(version.begin(), version.end(), '.') != 1 || !valid_version(full)) {
      refuse("the ABI " + quote_name(version) + " is not of the form " + abi_text());
    }
    const size_t dot = version.find('.');
    manifest_.abi_major = static_cast<uint32_t>(std::stoul(version.substr(0, dot)));
    manifest_.abi_minor = static_cast<uint32_t>(std::stoul(version.substr(dot + 1)));
  }

  void read_object(const Json& json) {
    if (!json.is_object()) refuse("an entry of \"objects\" is not a JSON object");
    known(json, {"backend", "file", "sha256", "arch", "cpu", "gpu", "runtime"});
    ObjectFile object{get_string(json, "backend", what_),
                      get_string(json, "file", what_),
                      text(json, "sha256"),
                      text(json, "arch"),
                      {}};
    if (!valid_id(object.backend)) refuse("the backend " + quote_name(object.backend) + " is not a valid name");
    if (!plain_file_name(object.file)) {
      refuse("the object " + quote_name(object.file) + " is not the plain name of a file beside the manifest");
    }
    for (const ObjectFile& other : manifest_.objects) {
      if (other.file == object.file) refuse("the object " + quote_name(object.file) + " is listed twice");
    }
    const auto hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
    const bool digest = object.sha256.size() == 64 && std::all_of(object.sha256.begin(), object.sha256.end(), hex);
    if (!digest && (sealed() || !object.sha256.empty())) {
      refuse("the SHA-256 of " + quote_name(object.file) +
             " is not 64 hexadecimal digits; run `tenon-store seal` on the plugin's folder");
    }
    if (sealed() && !valid_id(object.arch)) refuse("the architecture of " + quote_name(object.file) + " is missing");
    if (const Json* const cpu = find_array(json, "cpu", what_)) object.cpu = texts(*cpu, "cpu", what_);
    if (const Json* const gpu = find_array(json, "gpu", what_)) object.gpu = texts(*gpu, "gpu", what_);
    object.runtime = text(json, "runtime");
    manifest_.objects.push_back(std::move(object));
  }

  void check_tag(std::string_view tag, bool alternatives) const {
    const auto ok = [&](char c) { return (c > ' ' && c < 0x7f && c != '|' && c != ',') || (alternatives && c == '|'); };
    if (tag.empty() || tag.size() > 500 || !std::all_of(tag.begin(), tag.end(), ok)) {
      refuse("the tag " + quote_name(tag) + " is not valid; write it like 'kind:adapter'");
    }
  }

  std::vector<std::string> tags(const char* key) const {
    std::vector<std::string> out = texts(list(key), key, what_);
    for (const std::string& tag : out) check_tag(tag, false);
    return out;
  }

  std::vector<Relation> relations(const char* key, bool alternatives) const {
    std::vector<Relation> out;
    for (const Json& entry : list(key)) {
      if (!entry.is_object()) refuse(std::string("an entry of \"") + key + "\" is not a JSON object");
      known(entry, {"tag", "reason"});
      Relation relation{get_string(entry, "tag", what_), text(entry, "reason")};
      check_tag(relation.tag, alternatives);
      if (relation.reason.empty())
        refuse(std::string("\"") + key + "\" gives no reason for " + quote_name(relation.tag));
      out.push_back(std::move(relation));
    }
    return out;
  }

  const Json& json_;
  const std::string& what_;
  const ManifestState state_;
  Manifest manifest_;
};

}  // namespace

bool plain_file_name(std::string_view name) {
  const auto ok = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-' || c == '+';
  };
  return !name.empty() && name.size() <= 200 && name[0] != '.' && std::all_of(name.begin(), name.end(), ok);
}

std::vector<std::string> Manifest::backends() const {
  std::vector<std::string> names;
  for (const ObjectFile& object : objects) {
    if (std::find(names.begin(), names.end(), object.backend) == names.end()) names.push_back(object.backend);
  }
  return names;
}

Manifest parse_manifest(std::string_view text, const std::string& what, ManifestState state) {
  const Json json = parse_json(text, what, kLimits);
  return Reader(json, what, state).read();
}

Manifest read_manifest(const std::string& folder, ManifestState state) {
  const std::string path = (std::filesystem::path(folder) / "manifest.json").string();
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error)) {
    throw Error(TN_E_NOT_FOUND,
                folder + ": there is no such folder; give the folder that holds the plugin's manifest.json");
  }
  if (!std::filesystem::exists(path, error)) {
    throw Error(TN_E_NOT_FOUND, folder + ": there is no manifest.json in this folder, so it is not a plugin");
  }
  const Json json = read_json_file(path, kLimits);
  return Reader(json, path, state).read();
}

Schema parse_schema(const Json& array, const std::string& what) {
  Schema schema;
  for (const Json& json : array) {
    if (!json.is_object()) throw Error(TN_E_FORMAT, what + ": an entry of \"hypers\" is not a JSON object");
    HyperInfo info;
    info.name = get_string(json, "name", what);
    info.type = type_from_name(get_string(json, "type", what));
    info.default_value = get_string(json, "default", what);
    if (info.type == TN_TYPE_INT || info.type == TN_TYPE_FLOAT) {
      info.min = find_double(json, "min", -kInfinity, kInfinity, what).value_or(-kInfinity);
      info.max = find_double(json, "max", -kInfinity, kInfinity, what).value_or(kInfinity);
      if (find_bool(json, "open_min", what).value_or(false)) info.flags |= TN_RANGE_OPEN_MIN;
      if (find_bool(json, "open_max", what).value_or(false)) info.flags |= TN_RANGE_OPEN_MAX;
    }
    if (const Json* const choices = find_array(json, "choices", what)) info.choices = texts(*choices, "choices", what);
    info.unit = find_string(json, "unit", what).value_or("");
    info.doc = find_string(json, "doc", what).value_or("");
    schema.push_back(std::move(info));
  }
  check_schema(what, schema);
  return schema;
}

}  // namespace tenon
