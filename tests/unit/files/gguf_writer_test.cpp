#include "core/files/gguf_writer.h"

#include "support.h"

namespace tenon {
namespace {

using test::read_text;
using test::refusal;
using test::ScratchFolder;

GgufMetadata sample_metadata() {
  GgufMetadata metadata;
  metadata.set_string("general.architecture", "llama");
  metadata.set_u32("general.alignment", 64);
  metadata.set_i32("a.i32", -4);
  metadata.set_u64("a.u64", 1ull << 40);
  metadata.set_f32("a.f32", 1e-5f);
  metadata.set_bool("a.bool", true);
  metadata.set_strings("a.strings", std::vector<std::string>{"x", "", "Ġthe"});
  metadata.set_f32s("a.f32s", std::vector<float>{0.5f, -1});
  metadata.set_i32s("a.i32s", std::vector<int32_t>{1, -1});
  return metadata;
}

std::vector<GgufTensorSpec> sample_tensors() {
  return {{"token_embd.weight", find_ggml_type("Q8_0"), {3, 64}},
          {"blk.0.attn_norm.weight", find_ggml_type("F32"), {7}},
          {"empty", find_ggml_type("BF16"), {0}},
          {"output.weight", find_ggml_type("Q6_K"), {1, 256}}};
}

void write_sample(const std::string& path, const GgufMetadata& metadata) {
  GgufWriter writer(path, metadata, sample_tensors());
  writer.write("output.weight", as_bytes(std::string(210, 'o')));
  writer.write("token_embd.weight", as_bytes(std::string(100, 't')));
  writer.write("token_embd.weight", as_bytes(std::string(104, 'u')));
  writer.write("blk.0.attn_norm.weight", as_bytes(std::string(28, 'n')));
  writer.commit();
}

TEST(GgufWriter, RoundTripsThroughTheReader) {
  ScratchFolder folder;
  write_sample(folder / "a.gguf", sample_metadata());
  const GgufFile file = GgufFile::open(folder / "a.gguf");
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(file.alignment(), 64u);
  EXPECT_EQ(file.get_string("general.architecture"), "llama");
  EXPECT_EQ(file.get_int("a.i32", -10, 0), -4);
  EXPECT_EQ(file.get_int("a.u64", 0, INT64_MAX), 1ll << 40);
  EXPECT_EQ(file.get_double("a.f32"), double{1e-5f});
  EXPECT_TRUE(file.get_bool("a.bool"));
  EXPECT_EQ(file.strings("a.strings")[2], "Ġthe");
  EXPECT_EQ(file.doubles("a.f32s"), (std::vector<double>{0.5, -1}));
  EXPECT_EQ(file.ints("a.i32s"), (std::vector<int64_t>{1, -1}));
  ASSERT_EQ(file.tensors().size(), 4u);
  EXPECT_EQ(file.tensors()[0].shape, (std::vector<int64_t>{3, 64}));
  EXPECT_EQ(as_text(file.data(file.get_tensor("token_embd.weight"))), std::string(100, 't') + std::string(104, 'u'));
  EXPECT_EQ(as_text(file.data(file.get_tensor("output.weight"))), std::string(210, 'o'));
  for (const GgufTensor& tensor : file.tensors()) EXPECT_EQ(tensor.offset % 64, 0u);
  EXPECT_EQ(std::filesystem::file_size(folder / "a.gguf") % 64, 0u);
  file.drop(file.tensors()[0]);
  EXPECT_EQ(as_text(file.data(file.tensors()[0])).front(), 't');
}

TEST(GgufWriter, ACopyOfAFileIsTheSameBytes) {
  ScratchFolder folder;
  write_sample(folder / "a.gguf", sample_metadata());
  const GgufFile file = GgufFile::open(folder / "a.gguf");
  GgufMetadata metadata;
  for (const GgufEntry& entry : file.metadata()) metadata.copy(entry);
  std::vector<GgufTensorSpec> specs;
  for (const GgufTensor& tensor : file.tensors())
    specs.push_back({std::string(tensor.name), tensor.type, tensor.shape});
  GgufWriter writer(folder / "b.gguf", metadata, specs);
  for (const GgufTensor& tensor : file.tensors()) writer.write(tensor.name, file.data(tensor));
  writer.commit();
  EXPECT_EQ(read_text(folder / "b.gguf"), read_text(folder / "a.gguf"));
}

TEST(GgufWriter, MetadataAloneIsAFile) {
  ScratchFolder folder;
  GgufWriter writer(folder / "a.gguf", sample_metadata(), {});
  writer.commit();
  EXPECT_EQ(GgufFile::open(folder / "a.gguf").metadata().size(), 9u);
}

TEST(GgufWriter, RefusesWhatAReaderWould) {
  ScratchFolder folder;
  const GgmlType* f32 = find_ggml_type("F32");
  const auto make = [&](std::vector<GgufTensorSpec> specs) {
    return refusal(TN_E_ARGUMENT, [&] { GgufWriter writer(folder / "a", GgufMetadata(), specs); });
  };
  EXPECT_HAS(make({{"", f32, {1}}}), "name of 0 bytes");
  EXPECT_HAS(make({{std::string(64, 'n'), f32, {1}}}), "name of 64 bytes");
  EXPECT_HAS(make({{"a", f32, {1}}, {"a", f32, {1}}}), "given twice");
  EXPECT_HAS(make({{"a", nullptr, {1}}}), "no type");
  EXPECT_HAS(make({{"a", f32, {1, 1, 1, 1, 1}}}), "rank 5");
  EXPECT_HAS(make({{"a", f32, {-1}}}), "negative");
  EXPECT_HAS(make({{"a", find_ggml_type("Q4_K"), {4, 128}}}), "256 elements of a Q4_K block");
  EXPECT_HAS(make({{"a", f32, {1ll << 60}}, {"b", f32, {1ll << 60}}}), "2^61");
  EXPECT_EQ(folder.entries(), 0u);
  GgufMetadata metadata;
  metadata.set_u32("k", 1);
  EXPECT_HAS(refusal(TN_E_ARGUMENT, [&] { metadata.set_i32("k", 1); }), "'k'");
  EXPECT_HAS(refusal(TN_E_ARGUMENT, [&] { metadata.set_i32("", 1); }), "empty");
  EXPECT_HAS(refusal(TN_E_ARGUMENT, [&] { metadata.set_u32("general.alignment", 12); }), "power of two");
  EXPECT_HAS(refusal(TN_E_ARGUMENT, [&] { metadata.set_u64("general.alignment", 32); }), "u32");
}

TEST(GgufWriter, AnIncompleteFileNeverAppears) {
  ScratchFolder folder;
  {
    GgufWriter writer(folder / "a", GgufMetadata(), {{"t", find_ggml_type("F32"), {2}}});
    writer.write("t", as_bytes("1234"));
    EXPECT_HAS(refusal(TN_E_STATE, [&] { writer.commit(); }), "4 of its 8 bytes");
  }
  EXPECT_EQ(folder.entries(), 0u);
}

}  // namespace
}  // namespace tenon
