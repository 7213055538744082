#include "core/packages/signature.h"

#include <sys/stat.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/atomic_file.h"
#include "core/files/json.h"
#include "core/packages/contents.h"

namespace tenon {
namespace {

struct Signature {
  PublicKey key;
  std::array<uint8_t, 64> value{};
};

Signature parse(const Json& json, const std::string& path) {
  const auto refuse = [&](const std::string& why) {
    throw Error(TN_E_FORMAT, path + ": " + why + "; get the package again");
  };
  if (!json.is_object()) refuse("the signature is not a JSON object");
  if (get_int(json, "signature", 0, 1 << 30, path) != 1 || get_string(json, "algorithm", path) != "ed25519")
    throw Error(
        TN_E_FORMAT,
        path + ": the signature is not of format 1 with ed25519, which is all that this Tenon knows; update Tenon");
  Signature s;
  s.key.owner = get_string(json, "owner", path);
  if (!valid_key_name(s.key.owner)) refuse("the owner's name is damaged");
  const std::string key = get_string(json, "key", path), value = get_string(json, "value", path);
  if (!from_base64(key, s.key.bytes.data(), s.key.bytes.size())) refuse("the key in the signature is damaged");
  if (!from_base64(value, s.value.data(), s.value.size())) refuse("the value of the signature is damaged");
  return s;
}

}  // namespace

void sign_folder(const std::string& folder, const Manifest& manifest, const SecretKey& key) {
  const std::array<uint8_t, 64> value = key.sign(signed_text(packaged_files(folder, manifest)));
  const PublicKey& open_key = key.public_key();
  write_json_file(std::filesystem::path(folder) / kSignatureFile,
                  {{"signature", 1},
                   {"algorithm", "ed25519"},
                   {"owner", open_key.owner},
                   {"key", to_base64(open_key.bytes.data(), open_key.bytes.size())},
                   {"value", to_base64(value.data(), value.size())}});
}

std::optional<PublicKey> check_signature(const std::string& folder, const Manifest& manifest) {
  const std::string path = std::filesystem::path(folder) / kSignatureFile;
  struct stat status;
  if (lstat(path.c_str(), &status) != 0) return std::nullopt;
  if (!S_ISREG(status.st_mode))
    throw Error(TN_E_FORMAT, path + ": the signature is not a plain file; get the package again");
  const Signature s = parse(
      read_json_file(path, {.max_bytes = kMostSignatureBytes, .max_values = 100, .max_depth = 4, .unique_keys = true}),
      path);
  if (!s.key.verifies(signed_text(packaged_files(folder, manifest)), s.value))
    throw Error(TN_E_TRUST, folder + ": the files differ from what " + words(s.key) +
                                " signed; do not use them, get the package again");
  return s.key;
}

std::string words(const PublicKey& key) {
  return key.owner + " (key id " + key.id() + ')';
}

}  // namespace tenon
