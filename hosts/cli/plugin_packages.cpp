// tenon plugin seal, pack, sign, verify PACKAGE, keygen, trust.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/packages/key_files.h"
#include "core/packages/package.h"
#include "core/packages/signature.h"
#include "core/packages/trust.h"
#include "core/plugins/kinds.h"
#include "core/plugins/seal.h"
#include "hosts/cli/output.h"
#include "hosts/cli/plugin_verbs.h"

namespace tenon::cli {
namespace {

std::string keys() {
  const std::string folder = key_folder();
  if (folder.empty())
    throw Error(TN_E_NOT_FOUND, "there is no folder for keys, since neither XDG_CONFIG_HOME nor HOME is set; set HOME");
  return folder;
}

nlohmann::json key_json(const PublicKey& key) {
  return {{"key_id", key.id()}, {"owner", key.owner}};
}

}  // namespace

int plugin_seal(const po::variables_map& values) {
  const Manifest m = seal(required(values, "argument"));
  if (values.count("json"))
    print_json({{"id", m.id}, {"version", m.version}, {"kind", kind_name(m.kind)}, {"objects", m.objects.size()}});
  else
    std::printf("%s %s sealed: %zu object%s\n", m.id.c_str(), m.version.c_str(), m.objects.size(),
                m.objects.size() == 1 ? "" : "s");
  return 0;
}

int plugin_keygen(const po::variables_map& values) {
  const std::string path = make_key_pair(keys(), required(values, "argument"));
  const PublicKey key = read_public_key(path);
  if (values.count("json")) {
    nlohmann::json out = key_json(key);
    out["public"] = path;
    print_json(out);
  } else {
    std::printf("key id %s\n%s is for those who install your plugins; the .secret file beside it is for nobody else\n",
                key.id().c_str(), path.c_str());
  }
  return 0;
}

int plugin_pack(const po::variables_map& values) {
  const std::string folder = required(values, "argument"), output = value_or(values, "output", std::string());
  std::string path;
  if (values.count("key")) {
    const SecretKey key = find_secret_key(keys(), values["key"].as<std::string>());
    path = pack(folder, output, &key);
  } else {
    path = pack(folder, output, nullptr);
  }
  const PackageContents contents = inspect(path);
  if (values.count("json"))
    print_json({{"package", path}, {"signer", contents.signer ? key_json(*contents.signer) : nlohmann::json()}});
  else
    std::printf("%s%s\n", path.c_str(),
                contents.signer ? (", signed by " + words(*contents.signer)).c_str() : ", not signed");
  return 0;
}

int plugin_sign(const po::variables_map& values) {
  const std::string package = required(values, "argument");
  if (!values.count("key")) throw Usage("name the key: tenon plugin sign PACKAGE --key NAME");
  const SecretKey key = find_secret_key(keys(), values["key"].as<std::string>());
  sign_package(package, key);
  if (values.count("json"))
    print_json({{"package", package}, {"signer", key_json(key.public_key())}});
  else
    std::printf("%s, signed by %s\n", package.c_str(), words(key.public_key()).c_str());
  return 0;
}

int verify_packages(const std::vector<std::string>& packages, bool json) {
  nlohmann::json out = nlohmann::json::array();
  bool sound = true;
  for (const std::string& package : packages) {
    nlohmann::json row = {{"package", package}};
    try {
      const PackageContents contents = inspect(package);
      const bool trusted = contents.signer && TrustStore(key_folder()).find(*contents.signer);
      sound = sound && trusted;
      row.update({{"id", contents.manifest.id},
                  {"version", contents.manifest.version},
                  {"signer", contents.signer ? key_json(*contents.signer) : nlohmann::json()},
                  {"trusted", trusted}});
      if (!json)
        std::printf("%s: %s %s, %s\n", package.c_str(), contents.manifest.id.c_str(), contents.manifest.version.c_str(),
                    !contents.signer
                        ? "not signed"
                        : ("signed by " + words(*contents.signer) + (trusted ? ", trusted" : ", not trusted")).c_str());
    } catch (const Error& e) {
      sound = false;
      row["error"] = e.what();
      remark(std::string("tenon: ") + e.what());
    }
    out.push_back(row);
  }
  if (json) print_json(out);
  return sound ? 0 : 1;
}

int plugin_trust(const po::variables_map& values) {
  TrustStore trusted(keys());
  if (values.count("remove")) {
    const PublicKey key = trusted.remove(values["remove"].as<std::string>());
    if (values.count("json"))
      print_json({{"removed", key_json(key)}});
    else
      std::printf("%s is no longer trusted; what it signed stays installed\n", words(key).c_str());
    return 0;
  }
  if (values.count("argument")) {
    const PublicKey key = read_public_key(values["argument"].as<std::string>());
    const bool added = trusted.add(key);
    if (values.count("json"))
      print_json({{"trusted", key_json(key)}, {"changed", added}});
    else
      std::printf("%s is trusted%s\n", words(key).c_str(), added ? "" : " already");
    return 0;
  }
  nlohmann::json out = nlohmann::json::array();
  for (const PublicKey& key : trusted.list()) {
    out.push_back(key_json(key));
    if (!values.count("json")) std::printf("%s  %s\n", key.id().c_str(), key.owner.c_str());
  }
  if (values.count("json"))
    print_json(out);
  else if (out.empty())
    remark("no key is trusted; `tenon plugin trust KEY.pub` trusts one");
  return 0;
}

}  // namespace tenon::cli
