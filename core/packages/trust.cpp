#include "core/packages/trust.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/files/bytes.h"
#include "core/files/posix_io.h"
#include "core/packages/key_files.h"
#include "core/plugins/nearest.h"

namespace tenon {

namespace fs = std::filesystem;

std::string TrustStore::path_of(const std::string& id) const {
  return fs::path(folder_) / "trusted" / (id + ".pub");
}

std::optional<PublicKey> TrustStore::find(const PublicKey& key) const {
  std::error_code error;
  const std::string path = path_of(key.id());
  if (folder_.empty() || !fs::exists(path, error)) return std::nullopt;
  PublicKey trusted = read_public_key(path);
  // The name of a file is a hint; the key itself decides.
  if (!(trusted == key)) throw Error(TN_E_TRUST, path + ": the file holds another key than its name says; remove it");
  return trusted;
}

std::vector<PublicKey> TrustStore::list() const {
  std::vector<PublicKey> keys;
  std::error_code error;
  if (folder_.empty()) return keys;
  for (const fs::directory_entry& entry : fs::directory_iterator(fs::path(folder_) / "trusted", error))
    if (entry.path().extension() == ".pub") keys.push_back(read_public_key(entry.path()));
  std::sort(keys.begin(), keys.end(), [](const PublicKey& a, const PublicKey& b) {
    return a.owner != b.owner ? a.owner < b.owner : a.bytes < b.bytes;
  });
  return keys;
}

bool TrustStore::add(const PublicKey& key) {
  if (folder_.empty())
    throw Error(TN_E_NOT_FOUND,
                "there is no folder to keep trusted keys in, since neither XDG_CONFIG_HOME nor HOME is set; set HOME");
  if (find(key)) return false;
  std::error_code error;
  const fs::path folder = fs::path(folder_) / "trusted";
  fs::create_directories(folder, error);
  if (error) throw_io_error(folder, "make the folder of trusted keys", error.value());
  write_public_key(path_of(key.id()), key);
  return true;
}

PublicKey TrustStore::remove(const std::string& id_or_name) {
  std::vector<PublicKey> meant;
  std::vector<std::string> names;
  for (const PublicKey& key : list()) {
    names.push_back(key.owner);
    if (key.id() == id_or_name || key.owner == id_or_name) meant.push_back(key);
  }
  if (meant.empty())
    throw Error(TN_E_NOT_FOUND,
                "no key named " + quote_name(id_or_name) + " is trusted" + suggestion(id_or_name, names, "there are"));
  if (meant.size() > 1)
    throw Error(TN_E_CONFLICT, "several trusted keys are named " + quote_name(id_or_name) +
                                   "; give the key id, such as " + meant[0].id());
  std::error_code error;
  if (!fs::remove(path_of(meant[0].id()), error) && error)
    throw_io_error(path_of(meant[0].id()), "remove the key", error.value());
  return meant[0];
}

}  // namespace tenon
