// tenon plugin: what is installed, and installing, removing and checking it. Keys and packages are in
// plugin_packages.cpp.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "core/catalog/catalog.h"
#include "core/error.h"
#include "core/files/json.h"
#include "core/packages/signature.h"
#include "core/plugins/kinds.h"
#include "core/plugins/locations.h"
#include "core/plugins/nearest.h"
#include "hosts/cli/arguments.h"
#include "hosts/cli/command.h"
#include "hosts/cli/output.h"
#include "hosts/cli/plugin_verbs.h"

namespace tenon::cli {
namespace {

constexpr const char* kKinds = "device, optimizer, adapter, quantizer or attention";

std::string joined(const std::vector<std::string>& parts, const char* between = ", ") {
  std::string out;
  for (const std::string& part : parts) out += (out.empty() ? "" : between) + part;
  return out;
}

// The user's store, where `install` writes.
Store writable_store() {
  const std::string path = user_store();
  if (path.empty())
    throw Error(TN_E_NOT_FOUND,
                "there is no folder to install into, since neither TENON_HOME nor HOME is set; set TENON_HOME to an "
                "absolute path");
  return Store(path);
}

// The user's store and the one that came with the installation, as far as they are there.
std::vector<std::string> existing_stores() {
  std::vector<std::string> out;
  std::error_code error;
  for (const std::string& path : {user_store(), bundled_store()})
    if (!path.empty() && std::filesystem::is_directory(path, error) &&
        std::find(out.begin(), out.end(), path) == out.end())
      out.push_back(path);
  return out;
}

int list(const po::variables_map& values) {
  PluginFilter filter;
  if (values.count("kind")) {
    filter.kind = values["kind"].as<std::string>();
    if (kind_from_name(filter.kind) == TN_KIND_UNDEFINED)
      throw Usage("--kind " + filter.kind + " is not one of " + kKinds);
  }
  const std::vector<PluginRow> rows = Catalog::open_default().list(filter);
  if (values.count("json")) {
    std::string out = "[";
    for (const PluginRow& r : rows) {
      const auto field = [&](const char* name, std::string_view value) { out += name, append_json(out, value); };
      out += out.size() > 1 ? ",\n " : "\n ";
      field("{\"id\": ", r.id), field(", \"kind\": ", kind_name(r.kind)), field(", \"version\": ", r.version);
      field(", \"name\": ", r.name), field(", \"summary\": ", r.summary);
      out += ", \"backends\": [";
      for (size_t i = 0; i < r.backends.size(); ++i) field(i > 0 ? ", " : "", r.backends[i]);
      field("], \"store\": ", r.store), out += '}';
    }
    out += rows.empty() ? "]\n" : "\n]\n";
    std::fwrite(out.data(), 1, out.size(), stdout);
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

void print_relations(const char* title, const std::vector<Relation>& relations) {
  for (const Relation& r : relations) std::printf("%-12s %s: %s\n", title, r.tag.c_str(), r.reason.c_str());
}

int info(const po::variables_map& values) {
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

int install(const po::variables_map& values) {
  if (!values.count("argument")) throw Usage("name a package or the folder of a plugin: tenon plugin install PATH");
  Store store = writable_store();
  Json out = Json::array();
  int failures = 0;
  const InstallOptions options = {.allow_older = values.count("allow-older") > 0,
                                  .allow_unsigned = values.count("allow-unsigned") > 0,
                                  .allow_unknown_key = values.count("allow-unknown-key") > 0};
  for (const std::string& path : values["argument"].as<std::vector<std::string>>()) {
    try {
      const InstallReport r = store.install(path, options);
      out.push_back({{"id", r.manifest.id},
                     {"version", r.manifest.version},
                     {"kind", kind_name(r.manifest.kind)},
                     {"changed", r.changed},
                     {"notes", r.notes},
                     {"signer", r.signer.empty() ? Json() : Json(r.signer)},
                     {"replaced", r.changed && !r.replaced.empty() ? Json(r.replaced) : Json()}});
      for (const std::string& note : r.notes) remark("note: " + note);
      if (!values.count("json"))
        std::printf("%s %s %s%s\n", r.manifest.id.c_str(), r.manifest.version.c_str(),
                    !r.changed           ? "was installed already"
                    : r.replaced.empty() ? "installed"
                                         : ("installed in place of " + r.replaced).c_str(),
                    r.signer.empty() ? "" : (", signed by " + r.signer).c_str());
    } catch (const Error& e) {
      ++failures;
      out.push_back({{"path", path}, {"error", e.what()}});
      remark(std::string("tenon: ") + e.what());
    }
  }
  if (values.count("json")) print_json(out);
  return failures ? 1 : 0;
}

int remove(const po::variables_map& values) {
  const std::string id = required(values, "argument");
  Store store = writable_store();
  try {
    store.remove(id);
  } catch (const Error& e) {
    if (e.code() != TN_E_NOT_FOUND) throw;
    const Catalog catalog = Catalog::open_default();
    (void)catalog.info(id);  // an unknown id names the nearest
    throw Error(TN_E_NOT_FOUND, id + " came with this installation (" + catalog.folder(id) +
                                    "); only what you installed yourself can be removed");
  }
  if (values.count("json"))
    print_json({{"removed", id}});
  else
    std::printf("%s removed\n", id.c_str());
  return 0;
}

int verify(const po::variables_map& values) {
  if (values.count("argument"))
    return verify_packages(values["argument"].as<std::vector<std::string>>(), values.count("json") > 0);
  Json stores = Json::array(), findings = Json::array();
  uint64_t total = 0;
  for (const std::string& path : existing_stores()) {
    uint64_t count = 0;
    for (const VerifyFinding& f : Store(path).verify(&count)) {
      findings.push_back({{"id", f.id}, {"problem", f.problem}});
      if (!values.count("json")) std::printf("%s\n", f.problem.c_str());
    }
    stores.push_back({{"store", path}, {"plugins", count}});
    total += count;
  }
  if (values.count("json"))
    print_json({{"sound", findings.empty()}, {"stores", stores}, {"findings", findings}});
  else if (findings.empty())
    std::printf("%s plugins, every object as it was installed\n", with_commas(static_cast<int64_t>(total)).c_str());
  return findings.empty() ? 0 : 1;
}

int rescan(const po::variables_map& values) {
  Json out = Json::array();
  bool sound = true;
  for (const std::string& path : existing_stores()) {
    if (access(path.c_str(), W_OK) != 0) {
      remark("note: " + path + " cannot be written by you and was left as it is");
      continue;
    }
    const RescanReport r = Store(path).rescan();
    out.push_back({{"store", path}, {"plugins", r.plugins}, {"problems", r.problems}});
    sound = sound && r.problems.empty();
    if (!values.count("json"))
      std::printf("%s: %s plugins\n", path.c_str(), with_commas(static_cast<int64_t>(r.plugins)).c_str());
    for (const std::string& problem : r.problems) remark("tenon: " + problem);
  }
  if (values.count("json")) print_json(out);
  return sound ? 0 : 1;
}

enum class Takes { kNothing, kOne, kOneOrNone, kMany };

struct Verb {
  const char *name, *usage, *help;
  Takes takes;
  int (*run)(const po::variables_map&);
};

constexpr Verb kVerbs[] = {
    {"list", "tenon plugin list [--kind KIND] [--json]",
     "What is installed: your own plugins and those that came with the installation. Of several versions\nthe newest "
     "counts. With --json: [{id, kind, version, name, summary, backends, store}].",
     Takes::kNothing, list},
    {"info", "tenon plugin info ID [--json]",
     "Everything about one plugin: paper, objects, who signed it, what it mixes with, and every parameter with its\n"
     "default and range.",
     Takes::kOne, info},
    {"install", "tenon plugin install PATH... [--allow-older] [--allow-unsigned] [--allow-unknown-key] [--json]",
     "PATH is a folder that you built, or a package, which must be signed with a key that you trust. Checks manifest,\n"
     "signature, digests and architecture, tries every object in a process of its own, copies the files into your "
     "store\n"
     "and records them. What fails leaves nothing behind. Your store is $TENON_HOME, else $XDG_DATA_HOME/tenon, else\n"
     "~/.local/share/tenon.",
     Takes::kMany, install},
    {"remove", "tenon plugin remove ID [--json]", "Takes a plugin out of your store. Runs that have it loaded keep it.",
     Takes::kOne, remove},
    {"verify", "tenon plugin verify [PACKAGE...] [--json]",
     "Compares every installed object with the digest of its installation, and signed plugins with their signature.\n"
     "Exit 1 names what was altered. With packages: what is in them, and who signed it; exit 0 means that you trust\n"
     "every signer.",
     Takes::kMany, verify},
    {"rescan", "tenon plugin rescan [--json]",
     "Builds the catalogs anew from the folders, which are the truth; for a catalog that was lost or damaged.",
     Takes::kNothing, rescan},
    {"seal", "tenon plugin seal DIR [--json]",
     "Completes the manifest.json that an author wrote with what the objects beside it say: digests, architectures,\n"
     "version, hyper-parameters.",
     Takes::kOne, plugin_seal},
    {"pack", "tenon plugin pack DIR [--output FILE] [--key NAME] [--json]",
     "Makes one file of a sealed folder, ID-VERSION.tenon, and signs it with --key.", Takes::kOne, plugin_pack},
    {"sign", "tenon plugin sign PACKAGE --key NAME [--json]", "Signs a package anew, in place.", Takes::kOne,
     plugin_sign},
    {"keygen", "tenon plugin keygen NAME [--json]",
     "Makes a key pair to sign packages with, in ~/.config/tenon/keys. NAME.pub is for those who install your plugins.",
     Takes::kOne, plugin_keygen},
    {"trust", "tenon plugin trust [KEY.pub | --remove NAME] [--json]",
     "Lists the keys whose packages you install without being asked, adds one, or removes one by its name or key id.",
     Takes::kOneOrNone, plugin_trust},
};

void add_flags(std::string_view verb, po::options_description& flags) {
  auto add = flags.add_options();
  if (verb == "list") add("kind", po::value<std::string>(), kKinds);
  if (verb == "install") {
    add("allow-older", "replace a newer version too");
    add("allow-unsigned", "install a package that nobody signed");
    add("allow-unknown-key", "install a package that was signed with a key that you do not trust");
  }
  if (verb == "pack") add("output", po::value<std::string>(), "the package; default ID-VERSION.tenon here");
  if (verb == "pack" || verb == "sign")
    add("key", po::value<std::string>(), "name of a key of yours, or path of a .secret file");
  if (verb == "trust") add("remove", po::value<std::string>(), "name or key id of the key not to trust any longer");
  add("json", "print one JSON document");
}

void print_help(std::FILE* to) {
  std::fputs("Plugins: techniques and devices, each a folder with a manifest and one object per backend.\n\n", to);
  for (const Verb& v : kVerbs) std::fprintf(to, "  %s\n", v.usage);
  std::fputs("\ntenon plugin VERB --help explains one. `tenon conformance ID` puts a plugin through the battery.\n",
             to);
}

int run_verb(const Verb& verb, const std::vector<std::string>& arguments) {
  po::options_description flags("Flags"), hidden, all;
  add_flags(verb.name, flags);
  po::positional_options_description positional;
  if (verb.takes == Takes::kMany)
    hidden.add_options()("argument", po::value<std::vector<std::string>>()), positional.add("argument", -1);
  else if (verb.takes != Takes::kNothing)
    hidden.add_options()("argument", po::value<std::string>()), positional.add("argument", 1);
  all.add(flags).add(hidden);
  for (const std::string& a : arguments)
    if (a == "--help" || a == "-h") {
      std::cout << verb.usage << "\n\n" << verb.help << "\n\n" << flags << std::flush;
      return 0;
    }
  po::variables_map values;
  parse(arguments, all, positional, verb.usage, values);
  if (verb.takes == Takes::kOne && !values.count("argument")) throw Usage("say what: " + std::string(verb.usage));
  return verb.run(values);
}

}  // namespace

int run_plugin(const std::vector<std::string>& arguments) {
  if (arguments.empty() || arguments[0] == "--help" || arguments[0] == "-h") {
    print_help(arguments.empty() ? stderr : stdout);
    return arguments.empty() ? 2 : 0;
  }
  std::vector<std::string> names;
  for (const Verb& verb : kVerbs) {
    names.emplace_back(verb.name);
    if (arguments[0] == verb.name) return run_verb(verb, {arguments.begin() + 1, arguments.end()});
  }
  throw Usage("there is no plugin command " + arguments[0] + suggestion(arguments[0], names, "there are"));
}

}  // namespace tenon::cli
