// Ed25519 keys that sign packages. The text forms and the files are in PACKAGES.md.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace tenon {

struct PublicKey {
  std::array<uint8_t, 32> bytes{};
  std::string owner;  // a remark for people; proves nothing

  // 32 hexadecimal digits by which people compare keys.
  std::string id() const;
  bool verifies(std::string_view message, const std::array<uint8_t, 64>& signature) const;
  bool operator==(const PublicKey& other) const { return bytes == other.bytes; }
};

// Its memory is wiped when it goes.
class SecretKey {
 public:
  // A new key from the system's random numbers.
  static SecretKey generate(std::string owner);
  static SecretKey from_seed(const std::array<uint8_t, 32>& seed, std::string owner);
  ~SecretKey();
  SecretKey(const SecretKey&) = delete;
  SecretKey(SecretKey&& other) noexcept;

  const PublicKey& public_key() const { return public_; }
  std::array<uint8_t, 64> sign(std::string_view message) const;
  std::array<uint8_t, 32> seed() const;

 private:
  SecretKey() = default;
  std::array<uint8_t, 64> bytes_{};
  PublicKey public_;
};

// Overwrites what must not stay in memory.
void wipe(void* bytes, size_t n);

std::string to_base64(const uint8_t* bytes, size_t n);
// Exactly n bytes, or false.
bool from_base64(std::string_view text, uint8_t* bytes, size_t n);

// Whether a text may be the name of a key: letters, digits, '.', '-' and '_', not starting with '.', at most 64 bytes.
bool valid_key_name(std::string_view name);

}  // namespace tenon
