#include "core/packages/keys.h"

#include <sodium.h>

#include <algorithm>

#include "core/error.h"
#include "core/plugins/sha256.h"

namespace tenon {
namespace {

void start_sodium() {
  static const bool started = sodium_init() >= 0;
  if (!started)
    throw Error(TN_E_INTERNAL,
                "the library that signs (libsodium) cannot start, as the system gives no random numbers");
}

}  // namespace

void wipe(void* bytes, size_t n) {
  sodium_memzero(bytes, n);
}

std::string PublicKey::id() const {
  return sha256(as_bytes({reinterpret_cast<const char*>(bytes.data()), bytes.size()})).substr(0, 32);
}

bool PublicKey::verifies(std::string_view message, const std::array<uint8_t, 64>& signature) const {
  start_sodium();
  return crypto_sign_verify_detached(signature.data(), reinterpret_cast<const unsigned char*>(message.data()),
                                     message.size(), bytes.data()) == 0;
}

SecretKey SecretKey::generate(std::string owner) {
  start_sodium();
  std::array<uint8_t, 32> seed;
  randombytes_buf(seed.data(), seed.size());
  SecretKey key = from_seed(seed, std::move(owner));
  wipe(seed.data(), seed.size());
  return key;
}

SecretKey SecretKey::from_seed(const std::array<uint8_t, 32>& seed, std::string owner) {
  start_sodium();
  SecretKey key;
  crypto_sign_seed_keypair(key.public_.bytes.data(), key.bytes_.data(), seed.data());
  key.public_.owner = std::move(owner);
  return key;
}

SecretKey::~SecretKey() {
  wipe(bytes_.data(), bytes_.size());
}

SecretKey::SecretKey(SecretKey&& other) noexcept : bytes_(other.bytes_), public_(std::move(other.public_)) {
  wipe(other.bytes_.data(), other.bytes_.size());
}

std::array<uint8_t, 64> SecretKey::sign(std::string_view message) const {
  std::array<uint8_t, 64> signature;
  crypto_sign_detached(signature.data(), nullptr, reinterpret_cast<const unsigned char*>(message.data()),
                       message.size(), bytes_.data());
  return signature;
}

std::array<uint8_t, 32> SecretKey::seed() const {
  std::array<uint8_t, 32> seed;
  crypto_sign_ed25519_sk_to_seed(seed.data(), bytes_.data());
  return seed;
}

std::string to_base64(const uint8_t* bytes, size_t n) {
  std::string text(sodium_base64_encoded_len(n, sodium_base64_VARIANT_ORIGINAL), '\0');
  sodium_bin2base64(text.data(), text.size(), bytes, n, sodium_base64_VARIANT_ORIGINAL);
  text.pop_back();  // the terminating zero
  return text;
}

bool from_base64(std::string_view text, uint8_t* bytes, size_t n) {
  size_t got = 0;
  const char* end = nullptr;
  return sodium_base642bin(bytes, n, text.data(), text.size(), nullptr, &got, &end, sodium_base64_VARIANT_ORIGINAL) ==
             0 &&
         got == n && end == text.data() + text.size();
}

bool valid_key_name(std::string_view name) {
  const auto ok = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  };
  return !name.empty() && name.size() <= 64 && name[0] != '.' && name[0] != '-' &&
         std::all_of(name.begin(), name.end(), ok);
}

}  // namespace tenon
