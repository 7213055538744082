// The keys whose packages this user installs without being asked.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/packages/keys.h"

namespace tenon {

class TrustStore {
 public:
  // `folder`: key_folder(); keys lie in its trusted/, one file each, so that programs may add and remove at the same
  // time. "" trusts nobody.
  explicit TrustStore(std::string folder) : folder_(std::move(folder)) {}

  // The key as it was trusted, under the name that it then had; null for an unknown key.
  std::optional<PublicKey> find(const PublicKey& key) const;
  // In the order of their names. A damaged file throws, naming it.
  std::vector<PublicKey> list() const;
  // False where it was trusted already.
  bool add(const PublicKey& key);
  // By key id or by a name that only one key has; TN_E_NOT_FOUND names the nearest. Answers what was removed.
  PublicKey remove(const std::string& id_or_name);

 private:
  std::string path_of(const std::string& id) const;

  std::string folder_;
};

}  // namespace tenon
