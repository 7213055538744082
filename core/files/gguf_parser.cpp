#include <bit>
#include <cstring>

#include "core/error.h"
#include "core/files/gguf.h"

namespace tenon {
namespace {

static_assert(std::endian::native == std::endian::little, "The file formats are little-endian and read in place.");

constexpr char kMagic[] = "GGUF";
constexpr uint32_t kOldestVersion = 2;
constexpr uint32_t kNewestVersion = 3;
constexpr uint64_t kMaxLength = 1ull << 30;  // Of a string in bytes and of an array in elements.
constexpr uint64_t kMaxTensors = 1'000'000;
constexpr uint64_t kMaxKeys = 1'000'000;
constexpr uint64_t kMaxNameBytes = 63;
constexpr uint32_t kMaxRank = 4;
// The fewest bytes that one key or tensor takes: they bound the counts by the size of the file.
constexpr uint64_t kLeastKeyBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kLeastTensorBytes = 8 + 1 + 4 + 4 + 8;

// Bytes of a value of fixed size; 0 for strings, arrays and unknown types.
uint64_t fixed_bytes(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool:
      return 1;
    case GgufType::kU16:
    case GgufType::kI16:
      return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32:
      return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      break;
  }
  return 0;
}

uint64_t round_up(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

}  // namespace

// One pass over the header. Every read is bounded by the file; `where_` says in an error what was being read.
class GgufParser {
 public:
  GgufParser(ByteSpan bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  void run(GgufFile& file) {
    read_header(file);
    for (uint64_t i = 0; i < key_count_; ++i) read_key(file, i);
    read_alignment(file);
    for (uint64_t i = 0; i < tensor_count_; ++i) read_tensor(file, i);
    place_tensors(file);
  }

 private:
  [[noreturn]] void fail(const std::string& problem) const {
    throw Error(TN_E_FORMAT, name_ + ": " + problem + "; the file is damaged, download it again");
  }

  ByteSpan take(uint64_t count) {
    if (count > bytes_.size() - at_) {
      fail("the file ends in " + where_ + ": " + std::to_string(count) + " bytes are due at byte " +
           std::to_string(at_) + " but " + std::to_string(bytes_.size() - at_) + " are left");
    }
    const ByteSpan taken = bytes_.subspan(at_, count);
    at_ += count;
    return taken;
  }

  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }

  std::string_view string() {
    const uint64_t length = number<uint64_t>();
    if (length > kMaxLength)
      fail("a string of " + std::to_string(length) + " bytes in " + where_ + " is over the limit of 1 GiB");
    return as_text(take(length));
  }

  void read_header(GgufFile& file) {
    where_ = "the magic number";
    if (as_text(take(4)) != kMagic) {
      throw Error(TN_E_FORMAT, name_ + ": the file starts with " + quote_name(as_text(bytes_.first(4))) +
                                   " and not with 'GGUF'; it is not a GGUF file, name one that is");
    }
    where_ = "the version";
    const auto version = number<uint32_t>();
    if (version != 0 && (version & 0xFFFF) == 0) {
      throw Error(
          TN_E_FORMAT,
          name_ + ": the file is in big-endian byte order, which is not supported; convert it to little-endian");
    }
    if (version < kOldestVersion || version > kNewestVersion) {
      throw Error(TN_E_FORMAT, name_ + ": the file has GGUF version " + std::to_string(version) +
                                   " and versions 2 and 3 are supported; convert it with a current converter");
    }
    file.version_ = version;
    where_ = "the counts";
    tensor_count_ = count("tensors", kMaxTensors);
    key_count_ = count("keys", kMaxKeys);
    const uint64_t left = bytes_.size() - at_;
    if (key_count_ > left / kLeastKeyBytes || tensor_count_ > left / kLeastTensorBytes) {
      fail("the header claims " + std::to_string(key_count_) + " keys and " + std::to_string(tensor_count_) +
           " tensors, more than the " + std::to_string(bytes_.size()) + " bytes of the file can hold");
    }
  }

  uint64_t count(const char* what, uint64_t limit) {
    const auto value = number<int64_t>();
    if (value < 0 || static_cast<uint64_t>(value) > limit) {
      fail("the header claims " + std::to_string(value) + " " + what + ", and 0 to " + std::to_string(limit) +
           " are possible");
    }
    return static_cast<uint64_t>(value);
  }

  GgufType value_type() {
    const auto id = number<uint32_t>();
    if (id > static_cast<uint32_t>(GgufType::kF64))
      fail("the value type " + std::to_string(id) + " of " + where_ + " is unknown");
    return static_cast<GgufType>(id);
  }

  void read_key(GgufFile& file, uint64_t index) {
    where_ = "key " + std::to_string(index + 1) + " of " + std::to_string(key_count_);
    GgufEntry entry;
    entry.key = string();
    if (entry.key.empty()) fail(where_ + " has an empty name");
    if (!file.keys_.emplace(entry.key, index).second) fail("the key " + quote_name(entry.key) + " appears twice");
    where_ = "the key " + quote_name(entry.key);
    entry.value.type = value_type();
    const uint64_t begin = at_;
    read_value(entry.value);
    entry.value.raw = bytes_.subspan(begin, at_ - begin);
    file.metadata_.push_back(entry);
  }

  void read_value(GgufValue& value) {
    switch (value.type) {
      case GgufType::kU8:
        value.data = uint64_t{number<uint8_t>()};
        break;
      case GgufType::kI8:
        value.data = int64_t{number<int8_t>()};
        break;
      case GgufType::kU16:
        value.data = uint64_t{number<uint16_t>()};
        break;
      case GgufType::kI16:
        value.data = int64_t{number<int16_t>()};
        break;
      case GgufType::kU32:
        value.data = uint64_t{number<uint32_t>()};
        break;
      case GgufType::kI32:
        value.data = int64_t{number<int32_t>()};
        break;
      case GgufType::kF32:
        value.data = double{number<float>()};
        break;
      case GgufType::kBool:
        value.data = boolean();
        break;
      case GgufType::kString:
        value.data = string();
        break;
      case GgufType::kArray:
        value.data = array();
        break;
      case GgufType::kU64:
        value.data = number<uint64_t>();
        break;
      case GgufType::kI64:
        value.data = number<int64_t>();
        break;
      case GgufType::kF64:
        value.data = number<double>();
        break;
    }
  }

  bool boolean() {
    const auto value = number<uint8_t>();
    if (value > 1) fail("the truth value of " + where_ + " is " + std::to_string(value) + " and not 0 or 1");
    return value == 1;
  }

  GgufArray array() {
    GgufArray array;
    array.type = value_type();
    if (array.type == GgufType::kArray) fail(where_ + " is an array of arrays, which the format does not have");
    array.count = number<uint64_t>();
    if (array.count > kMaxLength) {
      fail("an array of " + std::to_string(array.count) + " elements in " + where_ + " is over the limit of 2^30");
    }
    const uint64_t begin = at_;
    if (array.type == GgufType::kString) {
      for (uint64_t i = 0; i < array.count; ++i) string();
    } else if (array.type == GgufType::kBool) {
      for (uint64_t i = 0; i < array.count; ++i) boolean();
    } else {
      take(array.count * fixed_bytes(array.type));
    }
    array.bytes = bytes_.subspan(begin, at_ - begin);
    return array;
  }

  void read_alignment(GgufFile& file) {
    const GgufValue* value = file.find("general.alignment");
    if (value == nullptr) return;
    if (value->type != GgufType::kU32) {
      fail("'general.alignment' has the type " + std::string(gguf_type_name(value->type)) + " and not u32");
    }
    file.alignment_ = std::get<uint64_t>(value->data);
    if (!std::has_single_bit(file.alignment_)) {
      fail("'general.alignment' is " + std::to_string(file.alignment_) + " and not a power of two");
    }
  }

  void read_tensor(GgufFile& file, uint64_t index) {
    where_ = "tensor " + std::to_string(index + 1) + " of " + std::to_string(tensor_count_);
    GgufTensor tensor;
    tensor.name = string();
    if (tensor.name.empty()) fail(where_ + " has an empty name");
    if (tensor.name.size() > kMaxNameBytes) {
      fail("the name of " + where_ + " has " + std::to_string(tensor.name.size()) + " bytes and the limit is " +
           std::to_string(kMaxNameBytes));
    }
    if (!file.names_.emplace(tensor.name, index).second) fail("tensor " + quote_name(tensor.name) + " appears twice");
    where_ = "tensor " + quote_name(tensor.name);
    const auto rank = number<uint32_t>();
    if (rank > kMaxRank)
      fail(where_ + " has rank " + std::to_string(rank) + " and the limit is " + std::to_string(kMaxRank));
    tensor.shape.resize(rank);
    for (uint32_t i = 0; i < rank; ++i) {
      const auto size = number<int64_t>();
      if (size < 0) fail(where_ + " has the size " + std::to_string(size) + " on one axis");
      tensor.shape[rank - 1 - i] = size;
    }
    const auto type_id = number<uint32_t>();
    tensor.type = find_ggml_type(type_id);
    if (tensor.type == nullptr) {
      throw Error(
          TN_E_FORMAT,
          name_ + ": " + where_ + " has the type id " + std::to_string(type_id) +
              ", which is unknown or was withdrawn from the format; convert the model with a current converter");
    }
    const int64_t row = rank == 0 ? 1 : tensor.shape.back();
    if (row % tensor.type->block_elements != 0) {
      fail(where_ + " has rows of " + std::to_string(row) + " elements, not a multiple of the " +
           std::to_string(tensor.type->block_elements) + " of a " + std::string(tensor.type->name) + " block");
    }
    if (!ggml_tensor_bytes(*tensor.type, tensor.shape, tensor.bytes))
      fail("the shape of " + where_ + " overflows 2^63 bytes");
    tensor.offset = number<uint64_t>();
    file.tensors_.push_back(std::move(tensor));
  }

  // Offsets must be the running sum of the padded sizes. Turns them into offsets in the file.
  void place_tensors(GgufFile& file) {
    const uint64_t data_begin = round_up(at_, file.alignment_);
    const uint64_t data_bytes = bytes_.size() > data_begin ? bytes_.size() - data_begin : 0;
    uint64_t expected = 0;
    for (GgufTensor& tensor : file.tensors_) {
      const std::string subject = "tensor " + quote_name(tensor.name);
      if (tensor.offset % file.alignment_ != 0) {
        fail(subject + " is at offset " + std::to_string(tensor.offset) + ", not a multiple of the alignment " +
             std::to_string(file.alignment_));
      }
      if (tensor.offset != expected) {
        fail(subject + " is at offset " + std::to_string(tensor.offset) + " where " + std::to_string(expected) +
             " is due");
      }
      if (tensor.bytes > data_bytes || expected > data_bytes - tensor.bytes) {
        fail(subject + " ends at byte " + std::to_string(expected) + "+" + std::to_string(tensor.bytes) +
             " of the data but the file holds " + std::to_string(data_bytes) + " bytes of data");
      }
      tensor.offset += data_begin;
      expected = round_up(expected + tensor.bytes, file.alignment_);  // Both are within the file: no overflow.
    }
  }

  ByteSpan bytes_;
  const std::string& name_;
  uint64_t at_ = 0;
  uint64_t key_count_ = 0;
  uint64_t tensor_count_ = 0;
  std::string where_;
};

GgufFile GgufFile::parse(ByteSpan bytes, const std::string& name) {
  GgufFile file;
  file.path_ = name;
  file.bytes_ = {bytes};
  GgufParser(bytes, file.path_).run(file);
  return file;
}

}  // namespace tenon
