// tenon plugin: its verbs, what they take and how they explain themselves.
#include <cstdio>
#include <iostream>

#include "core/plugins/nearest.h"
#include "hosts/cli/command.h"
#include "hosts/cli/plugin_verbs.h"

namespace tenon::cli {
namespace {

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
     Takes::kNothing, plugin_list},
    {"info", "tenon plugin info ID [--json]",
     "Everything about one plugin: paper, objects, who signed it, what it mixes with, and every parameter with its\n"
     "default and range.",
     Takes::kOne, plugin_info},
    {"install", "tenon plugin install PATH... [--allow-older] [--allow-unsigned] [--allow-unknown-key] [--json]",
     "PATH is a folder that you built, or a package, which must be signed with a key that you trust. Checks manifest,\n"
     "signature, digests and architecture, tries every object in a process of its own, copies the files into your "
     "store\n"
     "and records them. What fails leaves nothing behind. Your store is $TENON_HOME, else $XDG_DATA_HOME/tenon, else\n"
     "~/.local/share/tenon.",
     Takes::kMany, plugin_install},
    {"remove", "tenon plugin remove ID [--json]", "Takes a plugin out of your store. Runs that have it loaded keep it.",
     Takes::kOne, plugin_remove},
    {"verify", "tenon plugin verify [PACKAGE...] [--json]",
     "Compares every installed object with the digest of its installation, and signed plugins with their signature.\n"
     "Exit 1 names what was altered. With packages: what is in them, and who signed it; exit 0 means that you trust\n"
     "every signer.",
     Takes::kMany, plugin_verify},
    {"rescan", "tenon plugin rescan [--json]",
     "Builds the catalogs anew from the folders, which are the truth; for a catalog that was lost or damaged.",
     Takes::kNothing, plugin_rescan},
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
  if (verb == "list") add("kind", po::value<std::string>(), kPluginKinds);
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
