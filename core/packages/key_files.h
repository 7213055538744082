// Keys as files of one line.
#pragma once

#include <string>

#include "core/packages/keys.h"

namespace tenon {

// $XDG_CONFIG_HOME/tenon, else ~/.config/tenon: keys/ and trusted/ are in it. The environment is ignored when the
// process has elevated privileges; then, and without a home, it is "".
std::string key_folder();

PublicKey read_public_key(const std::string& path);
void write_public_key(const std::string& path, const PublicKey& key);

// Refuses a file that others may read, with the command that mends it.
SecretKey read_secret_key(const std::string& path);

// Makes `folder`/keys/NAME.secret (mode 0600) and NAME.pub; TN_E_CONFLICT where there is such a key already. Answers
// the path of the public key.
std::string make_key_pair(const std::string& folder, const std::string& name);

// The secret key that `name_or_path` stands for: a file where it has a '/', else `folder`/keys/NAME.secret.
SecretKey find_secret_key(const std::string& folder, const std::string& name_or_path);

}  // namespace tenon
