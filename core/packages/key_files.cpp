#include "core/packages/key_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <vector>

#include "core/error.h"
#include "core/files/atomic_file.h"
#include "core/files/bytes.h"
#include "core/files/posix_io.h"
#include "core/plugins/locations.h"
#include "core/plugins/nearest.h"

namespace tenon {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPublic = "tenon-ed25519-public ", kSecret = "tenon-ed25519-secret ";
constexpr size_t kMostBytes = 1024;

// The whole of a small file, from a descriptor that is closed with this; `status` is of the file that was read.
std::string read_small(const std::string& path, struct stat& status) {
  const FileDescriptor fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) throw_io_error(path, "open the key", errno);
  if (fstat(fd.get(), &status) != 0) throw_io_error(path, "look at the key", errno);
  if (!S_ISREG(status.st_mode) || status.st_size > static_cast<off_t>(kMostBytes))
    throw Error(TN_E_FORMAT, path + ": this is not a key, which is a file of one line");
  std::string text(kMostBytes, '\0');
  const ssize_t n = read(fd.get(), text.data(), text.size());
  if (n < 0) throw_io_error(path, "read the key", errno);
  text.resize(static_cast<size_t>(n));
  return text;
}

// "KIND BASE64 OWNER\n" of 32 bytes.
void parse_line(const std::string& path, std::string_view text, std::string_view kind, const char* what, uint8_t* bytes,
                std::string& owner) {
  const auto refuse = [&](const std::string& why) { throw Error(TN_E_FORMAT, path + ": " + why); };
  if (!text.starts_with(kind))
    refuse(text.starts_with(kSecret) ? "this is a secret key, which stays with its owner; give the .pub file beside it"
                                     : std::string("this is not a ") + what + " key of Tenon");
  std::string_view rest = text.substr(kind.size());
  if (!rest.empty() && rest.back() == '\n') rest.remove_suffix(1);
  const size_t space = rest.find(' ');
  if (space == std::string_view::npos || !valid_key_name(rest.substr(space + 1)))
    refuse("the key's name is missing or damaged");
  if (!from_base64(rest.substr(0, space), bytes, 32)) refuse("the key is damaged; get it again");
  owner = rest.substr(space + 1);
}

}  // namespace

std::string key_folder() {
  return user_config();
}

PublicKey read_public_key(const std::string& path) {
  struct stat status;
  PublicKey key;
  parse_line(path, read_small(path, status), kPublic, "public", key.bytes.data(), key.owner);
  return key;
}

void write_public_key(const std::string& path, const PublicKey& key) {
  write_file_atomically(path,
                        std::string(kPublic) + to_base64(key.bytes.data(), key.bytes.size()) + ' ' + key.owner + '\n');
}

SecretKey read_secret_key(const std::string& path) {
  struct stat status;
  std::string text = read_small(path, status);
  if (status.st_mode & 077)
    throw Error(
        TN_E_TRUST,
        path + ": others may read this secret key, so it may be known to them; make a new one, or run `chmod 600 " +
            path + "` if you are sure that nobody did");
  std::array<uint8_t, 32> seed{};
  std::string owner;
  parse_line(path, text, kSecret, "secret", seed.data(), owner);
  SecretKey key = SecretKey::from_seed(seed, owner);
  wipe(seed.data(), seed.size());
  wipe(text.data(), text.size());
  return key;
}

std::string make_key_pair(const std::string& folder, const std::string& name) {
  if (!valid_key_name(name))
    throw Error(TN_E_ARGUMENT,
                quote_name(name) + " cannot be a key's name; use letters, digits, '.', '-' and '_', at most 64");
  const fs::path keys = fs::path(folder) / "keys";
  std::error_code error;
  fs::create_directories(keys, error);
  if (error) throw_io_error(keys, "make the folder of keys", error.value());
  fs::permissions(keys, fs::perms::owner_all, error);
  if (error) throw_io_error(keys, "make the folder of keys private", error.value());
  const std::string secret = keys / (name + ".secret"), open_key = keys / (name + ".pub");
  // Made in one step with its mode, so that there is no instant in which others may read it.
  const FileDescriptor fd(open(secret.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd && errno == EEXIST)
    throw Error(TN_E_CONFLICT,
                secret + ": there is a key of this name; choose another name, or move that file away first");
  if (!fd) throw_io_error(secret, "make the key", errno);
  const SecretKey key = SecretKey::generate(name);
  std::array<uint8_t, 32> seed = key.seed();
  std::string line = std::string(kSecret) + to_base64(seed.data(), seed.size()) + ' ' + name + '\n';
  wipe(seed.data(), seed.size());
  try {
    write_all(fd.get(), as_bytes(line), secret);
    if (fsync(fd.get()) != 0) throw_io_error(secret, "make the key durable", errno);
    write_public_key(open_key, key.public_key());
  } catch (...) {
    unlink(secret.c_str());
    throw;
  }
  wipe(line.data(), line.size());
  return open_key;
}

SecretKey find_secret_key(const std::string& folder, const std::string& name_or_path) {
  if (name_or_path.find('/') != std::string::npos) return read_secret_key(name_or_path);
  const fs::path path = fs::path(folder) / "keys" / (name_or_path + ".secret");
  std::error_code error;
  if (valid_key_name(name_or_path) && fs::exists(path, error)) return read_secret_key(path);
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(path.parent_path(), error))
    if (entry.path().extension() == ".secret") names.push_back(entry.path().stem());
  throw Error(TN_E_NOT_FOUND, "there is no secret key named " + quote_name(name_or_path) + " in " +
                                  path.parent_path().string() +
                                  (names.empty() ? "; make one with `tenon plugin keygen NAME`"
                                                 : suggestion(name_or_path, names, "there are")));
}

}  // namespace tenon
