#include <numeric>

#include "core/files/json.h"
#include "core/files/safetensors.h"
#include "core/files/safetensors_writer.h"
#include "support.h"

namespace tenon {
namespace {

using test::le;
using test::read_text;
using test::refusal;
using test::ScratchFolder;
using test::write_text;

// Bytes 0, 1, 2, ...
std::string counting(size_t count) {
  std::string out(count, '\0');
  std::iota(out.begin(), out.end(), '\0');
  return out;
}

TEST(FileDtype, NamesAndSizes) {
  for (int i = 0; i < kFileDtypeCount; ++i) {
    const auto dtype = static_cast<FileDtype>(i);
    FileDtype found = FileDtype::kU8;
    ASSERT_TRUE(dtype_from_name(dtype_name(dtype), found));
    EXPECT_EQ(found, dtype);
  }
  EXPECT_EQ(dtype_name(FileDtype::kBf16), "BF16");
  EXPECT_EQ(dtype_bits(FileDtype::kF6E3M2), 6);
  EXPECT_EQ(dtype_bits(FileDtype::kC64), 64);
  FileDtype dtype = FileDtype::kU8;
  EXPECT_FALSE(dtype_from_name("", dtype));
  EXPECT_FALSE(dtype_from_name("F16 ", dtype));
}

// Header and data as the reference library (safetensors 0.8.0) writes them for these tensors, all holding 0, 1, 2, ...
TEST(SafetensorsWriter, WritesTheBytesOfTheReferenceWriter) {
  const std::string golden =
      R"({"__metadata__":{"format":"pt"},"uint64":{"dtype":"U64","shape":[2],"data_offsets":[0,16]},)"
      R"("int64":{"dtype":"I64","shape":[2],"data_offsets":[16,32]},)"
      R"("float64":{"dtype":"F64","shape":[2],"data_offsets":[32,48]},)"
      R"("complex64":{"dtype":"C64","shape":[2],"data_offsets":[48,64]},)"
      R"("a.zero":{"dtype":"F32","shape":[0,5],"data_offsets":[64,64]},)"
      "\"b\xc3\xa9\\n\x7f\\u0001\\\"/\":"
      R"({"dtype":"F32","shape":[],"data_offsets":[64,68]},)"
      R"("float32":{"dtype":"F32","shape":[2],"data_offsets":[68,76]},)"
      R"("uint32":{"dtype":"U32","shape":[2],"data_offsets":[76,84]},)"
      R"("int32":{"dtype":"I32","shape":[2],"data_offsets":[84,92]},)"
      R"("bfloat16":{"dtype":"BF16","shape":[2],"data_offsets":[92,96]},)"
      R"("float16":{"dtype":"F16","shape":[2],"data_offsets":[96,100]},)"
      R"("uint16":{"dtype":"U16","shape":[2],"data_offsets":[100,104]},)"
      R"("int16":{"dtype":"I16","shape":[2],"data_offsets":[104,108]},)"
      R"("float8_e5m2fnuz":{"dtype":"F8_E5M2FNUZ","shape":[2],"data_offsets":[108,110]},)"
      R"("float8_e4m3fnuz":{"dtype":"F8_E4M3FNUZ","shape":[2],"data_offsets":[110,112]},)"
      R"("float8_e8m0fnu":{"dtype":"F8_E8M0","shape":[2],"data_offsets":[112,114]},)"
      R"("float8_e4m3fn":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[114,116]},)"
      R"("float8_e5m2":{"dtype":"F8_E5M2","shape":[2],"data_offsets":[116,118]},)"
      R"("int8":{"dtype":"I8","shape":[2],"data_offsets":[118,120]},)"
      R"("uint8":{"dtype":"U8","shape":[2],"data_offsets":[120,122]},)"
      R"("float4_e2m1fn_x2":{"dtype":"F4","shape":[4],"data_offsets":[122,124]},)"
      R"("bool":{"dtype":"BOOL","shape":[2],"data_offsets":[124,126]}}     )";
  ASSERT_EQ(golden.size(), 1464u);
  const std::vector<TensorSpec> specs = {
      {"bool", FileDtype::kBool, {2}},
      {"uint8", FileDtype::kU8, {2}},
      {"int8", FileDtype::kI8, {2}},
      {"float8_e5m2", FileDtype::kF8E5M2, {2}},
      {"float8_e4m3fn", FileDtype::kF8E4M3, {2}},
      {"float8_e8m0fnu", FileDtype::kF8E8M0, {2}},
      {"float8_e4m3fnuz", FileDtype::kF8E4M3Fnuz, {2}},
      {"float8_e5m2fnuz", FileDtype::kF8E5M2Fnuz, {2}},
      {"float4_e2m1fn_x2", FileDtype::kF4, {4}},
      {"int16", FileDtype::kI16, {2}},
      {"uint16", FileDtype::kU16, {2}},
      {"float16", FileDtype::kF16, {2}},
      {"bfloat16", FileDtype::kBf16, {2}},
      {"int32", FileDtype::kI32, {2}},
      {"uint32", FileDtype::kU32, {2}},
      {"float32", FileDtype::kF32, {2}},
      {"int64", FileDtype::kI64, {2}},
      {"uint64", FileDtype::kU64, {2}},
      {"float64", FileDtype::kF64, {2}},
      {"complex64", FileDtype::kC64, {2}},
      {"b\xc3\xa9\n\x7f\x01\"/", FileDtype::kF32, {}},
      {"a.zero", FileDtype::kF32, {0, 5}},
  };
  ScratchFolder folder;
  SafetensorsWriter writer(folder / "a.safetensors", specs, {{"format", "pt"}});
  for (const TensorSpec& spec : specs) writer.write(spec.name, as_bytes(counting(tensor_bytes(spec))));
  writer.commit();

  std::string expected = le<uint64_t>(golden.size()) + golden;
  for (const size_t bytes : {16, 16, 16, 16, 0, 4, 8, 8, 8, 4, 4, 4, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2})
    expected += counting(bytes);
  EXPECT_EQ(read_text(folder / "a.safetensors"), expected);
}

TEST(SafetensorsWriter, EveryDtypeRoundTrips) {
  ScratchFolder folder;
  std::vector<TensorSpec> specs;
  for (int i = 0; i < kFileDtypeCount; ++i) {
    const auto dtype = static_cast<FileDtype>(i);
    specs.push_back({std::to_string(i), dtype, {3, 4}});
    specs.push_back({std::to_string(i) + ".empty", dtype, {4, 0}});
  }
  SafetensorsWriter writer(folder / "a.safetensors", specs);
  for (const TensorSpec& spec : specs) {
    // In two pieces, the tensors in any order.
    const std::string bytes = counting(tensor_bytes(spec));
    const size_t half = bytes.size() / 2;
    writer.write(spec.name, as_bytes(bytes).first(half));
    writer.write(spec.name, as_bytes(bytes).subspan(half));
  }
  writer.commit();
  const SafetensorsReader reader = SafetensorsReader::open(folder / "a.safetensors");
  ASSERT_EQ(reader.tensors().size(), specs.size());
  for (const TensorSpec& spec : specs) {
    const TensorEntry& entry = reader.get(spec.name);
    EXPECT_EQ(entry.dtype, spec.dtype);
    EXPECT_EQ(entry.shape, spec.shape);
    EXPECT_EQ(as_text(reader.data(entry)), counting(tensor_bytes(spec)));
    reader.drop(entry);
    EXPECT_EQ(as_text(reader.data(entry)), counting(tensor_bytes(spec)));
  }
  EXPECT_EQ(reader.find("none"), nullptr);
  EXPECT_HAS(refusal(TN_E_NOT_FOUND, [&] { reader.get("none"); }), "'none'");
}

TEST(SafetensorsWriter, RefusesWhatTheFormatCannotHold) {
  ScratchFolder folder;
  const auto make = [&](std::vector<TensorSpec> specs) { SafetensorsWriter writer(folder / "a", specs); };
  EXPECT_HAS(refusal(TN_E_ARGUMENT, [&] { make({{"t", FileDtype::kU8, {1}}, {"t", FileDtype::kU8, {1}}}); }), "twice");
  EXPECT_HAS(refusal(TN_E_ARGUMENT, [&] { make({{"__metadata__", FileDtype::kU8, {1}}}); }), "__metadata__");
  EXPECT_HAS(refusal(TN_E_ARGUMENT, [&] { make({{"\xff", FileDtype::kU8, {1}}}); }), "UTF-8");
  EXPECT_HAS(refusal(TN_E_ARGUMENT, [&] { make({{"t", FileDtype::kU8, {-1}}}); }), "-1");
  EXPECT_HAS(refusal(TN_E_ARGUMENT, [&] { make({{"t", FileDtype::kF32, {1ll << 40, 1ll << 40}}}); }), "overflows");
  EXPECT_HAS(refusal(TN_E_ARGUMENT, [&] { make({{"t", FileDtype::kF4, {3}}}); }), "12 bits");
  EXPECT_EQ(folder.entries(), 0u);
}

TEST(SafetensorsWriter, AnIncompleteFileNeverAppears) {
  ScratchFolder folder;
  {
    SafetensorsWriter writer(folder / "a", {{"t", FileDtype::kF32, {2}}, {"u", FileDtype::kF32, {2}}});
    writer.write("t", as_bytes("12345678"));
    writer.write("u", as_bytes("1234"));
    EXPECT_HAS(refusal(TN_E_STATE, [&] { writer.commit(); }), "'u' has 4 of its 8 bytes");
    EXPECT_HAS(refusal(TN_E_ARGUMENT, [&] { writer.write("u", as_bytes("12345")); }),
               "announced with 8 bytes but is given 9");
    EXPECT_HAS(refusal(TN_E_NOT_FOUND, [&] { writer.write("v", as_bytes("1")); }), "'v'");
  }
  EXPECT_EQ(folder.entries(), 0u);
}

TEST(SafetensorsShards, RoundTripByFolderAndByIndex) {
  ScratchFolder folder;
  std::vector<TensorSpec> specs;
  for (int i = 0; i < 5; ++i) specs.push_back({"layer." + std::to_string(i), FileDtype::kF32, {3}});
  specs.push_back({"big", FileDtype::kU8, {100}});
  ShardedSafetensorsWriter writer(folder.path(), specs, {{"format", "pt"}}, 24);
  for (const TensorSpec& spec : specs) writer.write(spec.name, as_bytes(counting(tensor_bytes(spec))));
  refusal(TN_E_NOT_FOUND, [&] { writer.write("none", as_bytes("1")); });
  writer.commit();
  EXPECT_EQ(writer.files().front(), "model-00001-of-00004.safetensors");
  EXPECT_EQ(folder.entries(), 5u);
  for (const std::string& path : {folder.path(), folder / "model.safetensors.index.json"}) {
    const SafetensorsReader reader = SafetensorsReader::open(path);
    EXPECT_EQ(reader.file_count(), 4u);
    EXPECT_EQ(reader.metadata().at("format"), "pt");
    ASSERT_EQ(reader.tensors().size(), specs.size());
    for (const TensorSpec& spec : specs) {
      EXPECT_EQ(as_text(reader.data(reader.get(spec.name))), counting(tensor_bytes(spec)));
    }
  }
}

TEST(SafetensorsShards, OneShardNeedsNoIndex) {
  ScratchFolder folder;
  ShardedSafetensorsWriter writer(folder.path(), {{"t", FileDtype::kU8, {1}}});
  writer.write("t", as_bytes("x"));
  writer.commit();
  EXPECT_EQ(folder.entries(), 1u);
  EXPECT_EQ(SafetensorsReader::open(folder.path()).tensors().size(), 1u);
}

TEST(SafetensorsShards, AttacksThroughTheIndexAreRefused) {
  ScratchFolder folder;
  std::filesystem::create_directory(folder / "model");
  SafetensorsWriter outside(folder / "x.safetensors", {{"t", FileDtype::kU8, {1}}});
  outside.write("t", as_bytes("x"));
  outside.commit();
  std::filesystem::copy(folder / "x.safetensors", folder / "model/good.safetensors");
  const std::string path = folder / "model/model.safetensors.index.json";
  const auto index_refusal = [&](int32_t code, const std::string& text) {
    write_text(path, text);
    return refusal(code, [&] { SafetensorsReader::open(path); });
  };
  const auto shard_refusal = [&](const std::string& shard) {
    return index_refusal(TN_E_FORMAT, R"({"weight_map":{"t":")" + shard + R"("}})");
  };
  EXPECT_HAS(shard_refusal("../x.safetensors"), "path separator");
  EXPECT_HAS(shard_refusal(folder / "x.safetensors"), "path separator");
  EXPECT_HAS(shard_refusal("..\\\\x.safetensors"), "path separator");
  EXPECT_HAS(shard_refusal("C:x.safetensors"), "drive prefix");
  EXPECT_HAS(shard_refusal("..safetensors"), "'..'");
  EXPECT_HAS(shard_refusal("x.bin"), "does not end in .safetensors");
  EXPECT_HAS(shard_refusal(""), "is empty");
  EXPECT_HAS(shard_refusal("x\\u0000.safetensors"), "control character");
  EXPECT_HAS(index_refusal(TN_E_FORMAT, R"({"weight_map":{"t":7}})"), "not a file name");
  EXPECT_HAS(index_refusal(TN_E_FORMAT, R"({"weight_map":{}})"), "0 shards");
  EXPECT_HAS(index_refusal(TN_E_FORMAT, R"({"weight_map":[]})"), "must be an object");
  EXPECT_HAS(index_refusal(TN_E_NOT_FOUND, R"({})"), "weight_map");
  EXPECT_HAS(index_refusal(TN_E_FORMAT, R"([])"), "JSON object");
  EXPECT_HAS(index_refusal(TN_E_FORMAT, R"({"weight_map":{"t":"good.safetensors","t":"good.safetensors"}})"), "twice");
  EXPECT_HAS(index_refusal(TN_E_NOT_FOUND, R"({"weight_map":{"t":"none.safetensors"}})"), "model/none.safetensors");
  EXPECT_HAS(index_refusal(TN_E_FORMAT, R"({"weight_map":{"u":"good.safetensors"}})"), "tensor 'u' is missing");
  // The size that the index claims is not trusted, and tensors outside the map are left alone.
  write_text(path, R"({"metadata":{"total_size":99999999999},"weight_map":{"t":"good.safetensors"}})");
  EXPECT_EQ(SafetensorsReader::open(path).tensors().size(), 1u);
}

TEST(SafetensorsReader, FolderWithoutWeightsIsRefused) {
  ScratchFolder folder;
  EXPECT_HAS(refusal(TN_E_NOT_FOUND, [&] { SafetensorsReader::open(folder.path()); }), "model.safetensors");
  refusal(TN_E_NOT_FOUND, [&] { SafetensorsReader::open(folder / "none"); });
}

}  // namespace
}  // namespace tenon
