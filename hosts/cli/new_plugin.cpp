// tenon new-plugin: a working plugin to start from, in C, C++ or Rust.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string_view>

#include "core/error.h"
#include "core/files/atomic_file.h"
#include "core/files/atomic_folder.h"
#include "core/files/bytes.h"
#include "core/plugins/kinds.h"
#include "hosts/cli/arguments.h"
#include "hosts/cli/command.h"
#include "hosts/cli/output.h"
#include "hosts/cli/template_files.h"

namespace tenon::cli {
namespace {

namespace fs = std::filesystem;

struct File {
  std::string from, to;
};
// A kind in a language: files of the templates and where they go; @NAME@ in a path is replaced like in a text.
struct Skeleton {
  const char *language, *kind;
  std::vector<File> files;
  const char *build, *folder, *libs;
};

const char* const kMake = "make";
const char* const kCMake = "cmake -S . -B out -DCMAKE_PREFIX_PATH=/opt/tenon && cmake --build out";

std::vector<Skeleton> skeletons() {
  std::vector<Skeleton> all;
  for (const char* kind : {"optimizer", "quantizer", "adapter", "attention"})
    all.push_back({"c++",
                   kind,
                   {{std::string(kind) + ".cpp", "@NAME@.cpp"}, {"CMakeLists.txt", "CMakeLists.txt"}},
                   kCMake,
                   "out/plugins/@ID@",
                   std::string_view(kind) == "adapter" ? "tenon::sdk_adapter" : ""});
  all.push_back({"c", "optimizer", {{"optimizer.c", "@NAME@.c"}, {"Makefile.c", "Makefile"}}, kMake, "build/@ID@", ""});
  all.push_back({"c", "quantizer", {{"quantizer.c", "@NAME@.c"}, {"Makefile.c", "Makefile"}}, kMake, "build/@ID@", ""});
  for (const char* kind : {"optimizer", "quantizer"})
    all.push_back({"rust",
                   kind,
                   {{std::string(kind) + ".rs", "src/lib.rs"},
                    {"plugin.rs", "src/plugin.rs"},
                    {"build.rs", "build.rs"},
                    {"Cargo.toml", "Cargo.toml"},
                    {"Makefile.rust", "Makefile"}},
                   kMake,
                   "build/@ID@",
                   ""});
  return all;
}

using Words = std::vector<std::pair<std::string, std::string>>;

// The examples of vendors are templates too: what they are called is replaced like a mark. One pass, the first mark
// that fits, so that a word is never taken for a mark.
std::string filled(const std::string& text, const Words& words) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const auto found = std::find_if(words.begin(), words.end(),
                                    [&](const auto& w) { return text.compare(at, w.first.size(), w.first) == 0; });
    out += found == words.end() ? std::string(1, text[at]) : found->second;
    at += found == words.end() ? 1 : found->first.size();
  }
  return out;
}

std::string template_text(const std::string& name) {
  for (const TemplateFile* f = kTemplateFiles; f->name; ++f)
    if (name == f->name) return f->text;
  throw Error(TN_E_INTERNAL, "the template " + name + " is missing in this program; please report it");
}

const Skeleton& choose(const std::vector<Skeleton>& all, const std::string& kind, const std::string& language) {
  std::string languages;
  for (const Skeleton& s : all) {
    if (kind == s.kind && language == s.language) return s;
    if (kind == s.kind) languages += (languages.empty() ? "" : ", ") + std::string(s.language);
  }
  if (languages.empty()) throw Usage(kind + " is not one of the kinds optimizer, quantizer, adapter and attention");
  throw Usage("--language " + language + " has no " + kind + "; there is one in " + languages);
}

}  // namespace

int run_new_plugin(const std::vector<std::string>& arguments) {
  po::options_description flags("Flags"), hidden, all;
  auto add = flags.add_options();
  add("language", po::value<std::string>()->default_value("c++"), "c, c++ (with the SDK) or rust");
  add("output", po::value<std::string>(), "folder to make; default: the last part of NAME");
  add("json", "print {\"folder\", \"id\", \"files\", \"sealed\"}");
  hidden.add_options()("kind", po::value<std::string>())("name", po::value<std::string>());
  po::positional_options_description positional;
  positional.add("kind", 1).add("name", 1);
  all.add(flags).add(hidden);
  for (const std::string& a : arguments)
    if (a == "--help" || a == "-h") {
      std::printf(
          "tenon new-plugin KIND NAME [--language c|c++|rust] [--output DIR]\n\n"
          "Writes a plugin that works as it stands: it builds against an installed Tenon and passes `tenon "
          "conformance`.\n"
          "KIND is optimizer, quantizer, adapter or attention (C and Rust: optimizer and quantizer). NAME is the id, "
          "for\n"
          "vendors in reverse-domain form: com.example.mine.\n\n");
      std::ostringstream text;
      text << flags;
      std::fputs(text.str().c_str(), stdout);
      return 0;
    }
  po::variables_map values;
  parse(arguments, all, positional, "tenon new-plugin KIND NAME [--language c|c++|rust]", values);
  if (!values.count("kind") || !values.count("name"))
    throw Usage("say what: tenon new-plugin KIND NAME [--language c|c++|rust]");
  const std::string kind = values["kind"].as<std::string>(), id = values["name"].as<std::string>();
  const std::vector<Skeleton> known = skeletons();
  const Skeleton& skeleton = choose(known, kind, values["language"].as<std::string>());
  const std::string name = id.substr(id.rfind('.') + 1);
  if (!valid_id(id) || name.empty() || name[0] < 'a' || name[0] > 'z')
    throw Usage(quote_name(id) +
                " is not a valid id; use a-z, 0-9, '.', '-' and '_', the last part starting with a letter");
  std::string crate = name;
  std::replace(crate.begin(), crate.end(), '-', '_');
  const std::string relations = kind == "quantizer" ? ",\n  \"conflicts\": [{\"tag\": \"run:full-tuning\", \"reason\": "
                                                      "\"quantized weights cannot be tuned in full; add an adapter\"}]"
                                                    : "";
  const Words marks = {{"com.example.lion", id},
                       {"com.example.int8rows", id},
                       {"int8rows", name},
                       {"\"1.0.0\"", "\"0.1.0\""},
                       {"@ID@", id},
                       {"@NAME@", name},
                       {"@CRATE@", crate},
                       {"@KIND@", kind},
                       {"@LIBS@", skeleton.libs},
                       {"@RELATIONS@", relations},
                       {"@BUILD@", skeleton.build}};

  const std::string folder = value_or(values, "output", name);
  std::error_code error;
  if (fs::exists(folder, error))
    throw Error(TN_E_CONFLICT, folder + ": this exists already; choose another folder with --output");
  AtomicFolder made(folder);
  nlohmann::json files = nlohmann::json::array();
  const auto write = [&](const std::string& from, const std::string& to, const Words& words) {
    const fs::path path = fs::path(made.path()) / filled(to, marks);
    fs::create_directories(path.parent_path());
    write_file_atomically(path, filled(template_text(from), words));
    files.push_back(filled(to, marks));
  };
  for (const File& f : skeleton.files) {
    Words words = marks;
    if (f.from == "optimizer.c") words.insert(words.end(), {{"lion(", "step("}, {"lion", name}});
    if (f.from == "Cargo.toml" || f.from == "Makefile.rust")
      words.insert(words.begin(), {{"com.example.int8rows", id}, {"int8rows", crate}});
    write(f.from, f.to, words);
  }
  write("manifest.json", "manifest.json", marks);
  Words readme = marks;
  readme.push_back({"@FOLDER@", filled(skeleton.folder, marks)});
  write("README.md", "README.md", readme);
  made.commit();
  const std::string sealed = (fs::path(folder) / filled(skeleton.folder, marks)).string();
  if (values.count("json"))
    print_json({{"folder", folder}, {"id", id}, {"files", files}, {"sealed", sealed}});
  else
    std::printf("%s: a working %s in %s; build it with `%s` there, then `tenon conformance %s`\n", folder.c_str(),
                kind.c_str(), skeleton.language, skeleton.build, sealed.c_str());
  return 0;
}

}  // namespace tenon::cli
