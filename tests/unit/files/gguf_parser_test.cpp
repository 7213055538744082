#include "core/files/gguf.h"

#include "support.h"

namespace tenon {
namespace {

using test::le;
using test::refusal;

std::string text(std::string_view value) {
  return le<uint64_t>(value.size()) + std::string(value);
}

std::string key(std::string_view name, GgufType type, const std::string& value) {
  return text(name) + le(static_cast<uint32_t>(type)) + value;
}

// `sizes` as the file has them, fastest axis first.
std::string tensor(std::string_view name, const std::vector<int64_t>& sizes, uint32_t type, uint64_t offset) {
  std::string out = text(name) + le(static_cast<uint32_t>(sizes.size()));
  for (const int64_t size : sizes) out += le(size);
  return out + le(type) + le(offset);
}

std::string file_of(const std::vector<std::string>& keys, const std::vector<std::string>& tensors, size_t data_bytes,
                    uint32_t version = 3, size_t alignment = 32) {
  std::string out = "GGUF" + le(version) + le<uint64_t>(tensors.size()) + le<uint64_t>(keys.size());
  for (const std::string& part : keys) out += part;
  for (const std::string& part : tensors) out += part;
  out.resize((out.size() + alignment - 1) / alignment * alignment);
  return out + std::string(data_bytes, 'd');
}

std::string parse_refusal(const std::string& file) {
  const std::string sentence = refusal(TN_E_FORMAT, [&] { GgufFile::parse(as_bytes(file), "m.gguf"); });
  EXPECT_HAS(sentence, "m.gguf: ");
  return sentence;
}

std::string good_file() {
  return file_of(
      {key("general.architecture", GgufType::kString, text("llama")), key("a.u8", GgufType::kU8, le<uint8_t>(200)),
       key("a.i8", GgufType::kI8, le<int8_t>(-3)), key("a.u16", GgufType::kU16, le<uint16_t>(60000)),
       key("a.i16", GgufType::kI16, le<int16_t>(-300)), key("a.u32", GgufType::kU32, le<uint32_t>(4000000000u)),
       key("a.i32", GgufType::kI32, le<int32_t>(-5)), key("a.u64", GgufType::kU64, le<uint64_t>(UINT64_MAX)),
       key("a.i64", GgufType::kI64, le<int64_t>(-6)), key("a.f32", GgufType::kF32, le(0.5f)),
       key("a.f64", GgufType::kF64, le(0.25)), key("a.bool", GgufType::kBool, le<uint8_t>(1)),
       key("a.words", GgufType::kArray, le<uint32_t>(8) + le<uint64_t>(3) + text("x") + text("") + text("zz")),
       key("a.ints", GgufType::kArray, le<uint32_t>(5) + le<uint64_t>(2) + le<int32_t>(-1) + le<int32_t>(7)),
       key("a.reals", GgufType::kArray, le<uint32_t>(6) + le<uint64_t>(2) + le(1.5f) + le(-2.0f)),
       key("a.longs", GgufType::kArray, le<uint32_t>(10) + le<uint64_t>(1) + le<uint64_t>(UINT64_MAX)),
       key("a.none", GgufType::kArray, le<uint32_t>(4) + le<uint64_t>(0))},
      {tensor("w", {64, 3}, 3, 0), tensor("norm", {3}, 0, 128), tensor("empty", {32, 0}, 2, 160),
       tensor("one", {}, 1, 160)},
      192);
}

TEST(GgufParser, ReadsMetadataOfEveryType) {
  const std::string bytes = good_file();
  const GgufFile file = GgufFile::parse(as_bytes(bytes), "m.gguf");
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(file.metadata().size(), 17u);
  EXPECT_EQ(file.get_string("general.architecture"), "llama");
  EXPECT_EQ(file.get_int("a.u8", 0, 255), 200);
  EXPECT_EQ(file.get_int("a.i8", -128, 127), -3);
  EXPECT_EQ(file.get_int("a.u16", 0, 65535), 60000);
  EXPECT_EQ(file.get_int("a.i16", -1000, 0), -300);
  EXPECT_EQ(file.get_int("a.u32", 0, 1ll << 40), 4000000000ll);
  EXPECT_EQ(file.get_int("a.i32", -5, -5), -5);
  EXPECT_EQ(file.get_int("a.i64", -10, 0), -6);
  EXPECT_EQ(file.get_double("a.f32"), 0.5);
  EXPECT_EQ(file.get_double("a.f64"), 0.25);
  EXPECT_EQ(file.get_double("a.i32"), -5.0);
  EXPECT_TRUE(file.get_bool("a.bool"));
  EXPECT_EQ(file.strings("a.words"), (std::vector<std::string_view>{"x", "", "zz"}));
  EXPECT_EQ(file.ints("a.ints"), (std::vector<int64_t>{-1, 7}));
  EXPECT_EQ(file.doubles("a.reals"), (std::vector<double>{1.5, -2.0}));
  EXPECT_EQ(file.doubles("a.ints"), (std::vector<double>{-1, 7}));
  EXPECT_TRUE(file.ints("a.none").empty());
  EXPECT_TRUE(file.strings("absent").empty());
  EXPECT_FALSE(file.find_int("absent", 0, 1));
  EXPECT_FALSE(file.find_bool("absent"));
}

TEST(GgufParser, WrongMetadataIsNamed) {
  const std::string bytes = good_file();
  const GgufFile file = GgufFile::parse(as_bytes(bytes), "m.gguf");
  EXPECT_HAS(refusal(TN_E_NOT_FOUND, [&] { file.get_int("llama.block_count", 1, 9); }),
             "'llama.block_count' is missing");
  EXPECT_HAS(refusal(TN_E_FORMAT, [&] { file.get_int("a.u8", 0, 100); }), "is 200 and must be from 0 to 100");
  EXPECT_HAS(refusal(TN_E_FORMAT, [&] { file.get_int("a.u64", 0, INT64_MAX); }), "over 2^63-1");
  EXPECT_HAS(refusal(TN_E_FORMAT, [&] { file.get_int("a.f32", 0, 1); }), "has the type f32");
  EXPECT_HAS(refusal(TN_E_FORMAT, [&] { file.get_double("a.f32", 1, 2); }), "finite number from");
  EXPECT_HAS(refusal(TN_E_FORMAT, [&] { file.get_double("a.words"); }), "must be a number");
  EXPECT_HAS(refusal(TN_E_FORMAT, [&] { file.get_bool("a.u8"); }), "truth value");
  EXPECT_HAS(refusal(TN_E_FORMAT, [&] { file.get_string("a.u8"); }), "must be a string");
  EXPECT_HAS(refusal(TN_E_FORMAT, [&] { file.strings("a.ints"); }), "array of strings");
  EXPECT_HAS(refusal(TN_E_FORMAT, [&] { file.strings("a.u8"); }), "must be an array");
  EXPECT_HAS(refusal(TN_E_FORMAT, [&] { file.ints("a.reals"); }), "whole numbers");
  EXPECT_HAS(refusal(TN_E_FORMAT, [&] { file.ints("a.longs"); }), "over 2^63-1");
  EXPECT_HAS(refusal(TN_E_FORMAT, [&] { file.doubles("a.words"); }), "array of numbers");
  const std::string nan = file_of({key("x", GgufType::kF32, le<uint32_t>(0x7FC00000))}, {}, 0);
  refusal(TN_E_FORMAT, [&] { GgufFile::parse(as_bytes(nan), "m.gguf").get_double("x"); });
}

TEST(GgufParser, ShapesAreRowMajorAndDataIsPlaced) {
  const std::string bytes = good_file();
  const GgufFile file = GgufFile::parse(as_bytes(bytes), "m.gguf");
  ASSERT_EQ(file.tensors().size(), 4u);
  const GgufTensor& w = file.get_tensor("w");
  EXPECT_EQ(w.shape, (std::vector<int64_t>{3, 64}));
  EXPECT_EQ(w.type->name, "Q4_1");
  EXPECT_EQ(w.bytes, 3u * 2 * 20);
  EXPECT_EQ(w.offset, bytes.size() - 192);
  EXPECT_EQ(file.data(w).data(), as_bytes(bytes).data() + w.offset);
  EXPECT_EQ(file.get_tensor("empty").bytes, 0u);
  EXPECT_TRUE(file.data(file.get_tensor("empty")).empty());
  EXPECT_EQ(file.get_tensor("one").bytes, 2u);
  EXPECT_EQ(file.find_tensor("v"), nullptr);
  EXPECT_HAS(refusal(TN_E_NOT_FOUND, [&] { file.get_tensor("v"); }), "'v'");
}

TEST(GgufParser, EveryCutOfAGoodFileIsRefused) {
  const std::string bytes = good_file();
  // The last tensor has 2 bytes at data offset 160; the padding behind it may be absent.
  const size_t needed = bytes.size() - 192 + 162;
  for (size_t size = 0; size < needed; ++size) {
    SCOPED_TRACE(size);
    parse_refusal(bytes.substr(0, size));
  }
  EXPECT_NO_THROW(GgufFile::parse(as_bytes(bytes).first(needed), "m.gguf"));
}

TEST(GgufParser, MagicVersionAndByteOrder) {
  const std::string good = good_file();
  EXPECT_HAS(parse_refusal("XXXX" + good.substr(4)), "starts with 'XXXX'");
  EXPECT_HAS(parse_refusal("GG"), "the file ends in the magic number");
  for (const uint32_t version : {0u, 1u, 4u, 99u}) {
    EXPECT_HAS(parse_refusal("GGUF" + le(version) + good.substr(8)), "GGUF version " + std::to_string(version));
  }
  EXPECT_HAS(parse_refusal("GGUF" + le<uint32_t>(0x03000000) + good.substr(8)), "big-endian");
  EXPECT_NO_THROW(GgufFile::parse(as_bytes(file_of({}, {}, 0, 2)), "m.gguf"));
}

TEST(GgufParser, CountsAndLengthsAreBounded) {
  const std::string head = "GGUF" + le<uint32_t>(3);
  const std::string tail(100, '\1');
  EXPECT_HAS(parse_refusal(head + le<uint64_t>(1ull << 60) + le<uint64_t>(0) + tail), "1152921504606846976 tensors");
  EXPECT_HAS(parse_refusal(head + le<uint64_t>(0) + le<uint64_t>(1ull << 60) + tail), "1152921504606846976 keys");
  EXPECT_HAS(parse_refusal(head + le<int64_t>(-1) + le<uint64_t>(0) + tail), "claims -1 tensors");
  EXPECT_HAS(parse_refusal(head + le<uint64_t>(0) + le<uint64_t>(9) + tail),
             "more than the 124 bytes of the file can hold");
  EXPECT_HAS(parse_refusal(head + le<uint64_t>(9) + le<uint64_t>(0) + tail),
             "more than the 124 bytes of the file can hold");
  EXPECT_HAS(parse_refusal(head + le<uint64_t>(0) + le<uint64_t>(1) + le<uint64_t>(1ull << 63) + tail),
             "9223372036854775808 bytes");
  EXPECT_HAS(parse_refusal(head + le<uint64_t>(0) + le<uint64_t>(1) + le<uint64_t>(1000) + tail), "1000 bytes are due");
  const auto array = [&](uint32_t type, uint64_t count) {
    return file_of({key("k", GgufType::kArray, le(type) + le(count))}, {}, 64);
  };
  EXPECT_HAS(parse_refusal(array(10, 1ull << 61)), "over the limit of 2^30");
  EXPECT_HAS(parse_refusal(array(10, 1ull << 30)), "8589934592 bytes are due");
  EXPECT_HAS(parse_refusal(array(8, 1ull << 30)), "the key 'k'");
  EXPECT_HAS(parse_refusal(array(9, 1)), "array of arrays");
  EXPECT_HAS(parse_refusal(array(13, 1)), "value type 13");
}

TEST(GgufParser, KeysAreChecked) {
  const std::string one = key("k", GgufType::kU8, "1");
  EXPECT_HAS(parse_refusal(file_of({one, one}, {}, 0)), "'k' appears twice");
  EXPECT_HAS(parse_refusal(file_of({key("", GgufType::kU8, "1")}, {}, 0)), "empty name");
  EXPECT_HAS(parse_refusal(file_of({key("k", static_cast<GgufType>(77), "1")}, {}, 0)), "value type 77");
  EXPECT_HAS(parse_refusal(file_of({key("k", GgufType::kBool, le<uint8_t>(2))}, {}, 0)), "is 2 and not 0 or 1");
  EXPECT_HAS(parse_refusal(file_of({key("k", GgufType::kArray, le<uint32_t>(7) + le<uint64_t>(1) + "\x05")}, {}, 0)),
             "is 5 and not 0 or 1");
}

TEST(GgufParser, AlignmentIsChecked) {
  const auto with = [](uint32_t alignment) { return key("general.alignment", GgufType::kU32, le(alignment)); };
  EXPECT_HAS(parse_refusal(file_of({with(0)}, {}, 0)), "is 0 and not a power of two");
  EXPECT_HAS(parse_refusal(file_of({with(48)}, {}, 0)), "is 48 and not a power of two");
  EXPECT_HAS(parse_refusal(file_of({key("general.alignment", GgufType::kU64, le<uint64_t>(32))}, {}, 0)), "type u64");
  const std::string file = file_of({with(8)}, {tensor("a", {1}, 0, 0), tensor("b", {1}, 0, 8)}, 12, 3, 8);
  EXPECT_EQ(GgufFile::parse(as_bytes(file), "m").get_tensor("b").offset, file.size() - 4);
  EXPECT_HAS(parse_refusal(file_of({with(1u << 31)}, {tensor("a", {1}, 0, 0)}, 64)), "holds 0 bytes of data");
}

TEST(GgufParser, TensorsAreChecked) {
  const auto one = [](const std::string& info) { return parse_refusal(file_of({}, {info}, 64)); };
  EXPECT_HAS(parse_refusal(file_of({}, {tensor("a", {4}, 0, 0), tensor("a", {4}, 0, 32)}, 64)), "'a' appears twice");
  EXPECT_HAS(one(tensor("", {4}, 0, 0)), "empty name");
  EXPECT_HAS(one(tensor(std::string(64, 'n'), {4}, 0, 0)), "64 bytes and the limit is 63");
  EXPECT_HAS(one(tensor("a", {1, 1, 1, 1, 1}, 0, 0)), "rank 5");
  EXPECT_HAS(one(tensor("a", {4, -1}, 0, 0)), "size -1");
  EXPECT_HAS(one(tensor("a", {4}, 4, 0)), "type id 4");
  EXPECT_HAS(one(tensor("a", {4}, 4000000000u, 0)), "type id 4000000000");
  EXPECT_HAS(one(tensor("a", {48}, 2, 0)), "multiple of the 32 of a Q4_0 block");
  EXPECT_HAS(one(tensor("a", {}, 2, 0)), "rows of 1 elements");
  EXPECT_HAS(one(tensor("a", {1ll << 40, 1ll << 40}, 0, 0)), "overflows");
  EXPECT_HAS(one(tensor("a", {0, 1ll << 40, 1ll << 40}, 0, 0)), "overflows");
  EXPECT_HAS(one(tensor("a", {4}, 0, 4)), "not a multiple of the alignment");
  EXPECT_HAS(one(tensor("a", {4}, 0, 32)), "at offset 32 where 0 is due");
  EXPECT_HAS(parse_refusal(file_of({}, {tensor("a", {4}, 0, 0), tensor("b", {4}, 0, 0)}, 64)),
             "at offset 0 where 32 is due");
  EXPECT_HAS(one(tensor("a", {17}, 0, 0)), "holds 64 bytes of data");
  EXPECT_HAS(one(tensor("a", {1ll << 60}, 24, 0)), "holds 64 bytes of data");
}

TEST(GgmlTypes, TableIsConsistent) {
  const struct {
    const char* name;
    double bits;
  } kBits[] = {{"F32", 32},      {"F16", 16},     {"BF16", 16},     {"Q4_0", 4.5},     {"Q4_1", 5},     {"Q5_0", 5.5},
               {"Q5_1", 6},      {"Q8_0", 8.5},   {"Q2_K", 2.625},  {"Q3_K", 3.4375},  {"Q4_K", 4.5},   {"Q5_K", 5.5},
               {"Q6_K", 6.5625}, {"IQ4_NL", 4.5}, {"IQ4_XS", 4.25}, {"TQ2_0", 2.0625}, {"MXFP4", 4.25}, {"NVFP4", 4.5}};
  for (const auto& row : kBits) {
    const GgmlType* type = find_ggml_type(std::string_view(row.name));
    ASSERT_NE(type, nullptr) << row.name;
    EXPECT_EQ(find_ggml_type(type->id), type);
    EXPECT_EQ(8.0 * type->block_bytes / type->block_elements, row.bits) << row.name;
  }
  for (const uint32_t withdrawn : {4u, 5u, 31u, 32u, 33u, 36u, 37u, 38u, 1000u})
    EXPECT_EQ(find_ggml_type(withdrawn), nullptr);
  EXPECT_EQ(find_ggml_type("q4_0"), nullptr);
}

}  // namespace
}  // namespace tenon
