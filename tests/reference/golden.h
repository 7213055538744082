// Reads the committed golden vectors in tests. Independent of the product's own safetensors reader on purpose.
#ifndef TENON_TESTS_REFERENCE_GOLDEN_H
#define TENON_TESTS_REFERENCE_GOLDEN_H

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace tenon::golden {

// Element `i` of noise(seed, …) in golden.py: exact in f32, in (-2, 2), variance 1/3.
inline float noise(uint32_t seed, uint64_t i) {
  uint64_t z = (uint64_t{seed} << 32) + i + 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  int64_t sum = -131070;
  for (int k = 0; k < 4; ++k) sum += static_cast<int64_t>((z >> (16 * k)) & 0xFFFF);
  return static_cast<float>(sum) / 65536.0f;
}

inline std::vector<float> noise(uint32_t seed, size_t n, float scale) {
  std::vector<float> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = noise(seed, i) * scale;
  return out;
}

inline std::string path(const std::string& file) { return std::string(TENON_SOURCE_DIR "/tests/reference/data/") + file; }

// One file below tests/reference/data. Throws std::runtime_error for a missing file or tensor and for a wrong element type.
class File {
 public:
  explicit File(const std::string& name) : name_(name) {
    std::ifstream in(path(name), std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(in), {});
    if (bytes_.size() < 8) throw std::runtime_error(name + ": no golden data there");
    uint64_t length = 0;
    std::memcpy(&length, bytes_.data(), 8);
    start_ = 8 + length;
    header_ = nlohmann::json::parse(bytes_.begin() + 8, bytes_.begin() + static_cast<std::ptrdiff_t>(start_));
  }

  bool has(const std::string& tensor) const { return header_.contains(tensor); }

  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& [key, entry] : header_.items()) {
      if (key != "__metadata__") out.push_back(key);
    }
    return out;
  }

  std::vector<int64_t> shape(const std::string& tensor) const { return entry(tensor).at("shape").get<std::vector<int64_t>>(); }
  // A setting from the file's metadata, where every value is JSON text.
  nlohmann::json setting(const std::string& key) const {
    return nlohmann::json::parse(header_.at("__metadata__").at(key).get<std::string>());
  }

  std::vector<float> f32(const std::string& tensor) const { return values<float>(tensor, "F32"); }
  std::vector<uint8_t> u8(const std::string& tensor) const { return values<uint8_t>(tensor, "U8"); }
  std::vector<int8_t> i8(const std::string& tensor) const { return values<int8_t>(tensor, "I8"); }
  std::vector<int32_t> i32(const std::string& tensor) const { return values<int32_t>(tensor, "I32"); }

 private:
  const nlohmann::json& entry(const std::string& tensor) const {
    const auto it = header_.find(tensor);
    if (it == header_.end()) throw std::runtime_error(name_ + ": no golden tensor " + tensor);
    return *it;
  }

  template <typename T>
  std::vector<T> values(const std::string& tensor, const char* dtype) const {
    const nlohmann::json& e = entry(tensor);
    if (e.at("dtype") != dtype) throw std::runtime_error(name_ + ": golden tensor " + tensor + " is not " + dtype);
    const size_t begin = e.at("data_offsets").at(0), end = e.at("data_offsets").at(1);
    std::vector<T> out((end - begin) / sizeof(T));
    if (!out.empty()) std::memcpy(out.data(), bytes_.data() + start_ + begin, end - begin);
    return out;
  }

  std::string name_;
  std::vector<char> bytes_;
  size_t start_ = 0;
  nlohmann::json header_;
};

}  // namespace tenon::golden

#endif  // TENON_TESTS_REFERENCE_GOLDEN_H
