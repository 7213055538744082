// A model in several files is read as one.
#include <gtest/gtest.h>

#include "core/files/gguf_writer.h"
#include "core/error.h"
#include "support.h"

namespace tenon {
namespace {

using test::refusal;
using test::ScratchFolder;

struct Part {
  uint32_t number, count;
  std::vector<std::string> tensors;
  uint32_t total = 3;
};

void write_part(const std::string& path, const Part& part) {
  GgufMetadata metadata;
  if (part.number == 0) metadata.set_string("general.architecture", "llama");
  metadata.set_u32("split.no", part.number);
  metadata.set_u32("split.count", part.count);
  metadata.set_i32("split.tensors.count", static_cast<int32_t>(part.total));
  std::vector<GgufTensorSpec> specs;
  for (const std::string& name : part.tensors) specs.push_back({name, find_ggml_type("F32"), {2}});
  GgufWriter writer(path, metadata, specs);
  for (const std::string& name : part.tensors) writer.write(name, as_bytes(std::string(8, name[0])));
  writer.commit();
}

TEST(SplitGguf, AnyPartOpensTheWhole) {
  const ScratchFolder folder;
  const std::string first = folder / "m-00001-of-00003.gguf", second = folder / "m-00002-of-00003.gguf";
  write_part(first, {0, 3, {"a"}});
  write_part(second, {1, 3, {"b", "c"}});
  write_part(folder / "m-00003-of-00003.gguf", {2, 3, {}});
  for (const std::string& path : {first, second}) {
    const GgufFile file = GgufFile::open(path);
    EXPECT_EQ(file.path(), first);
    EXPECT_EQ(file.get_string("general.architecture"), "llama");
    ASSERT_EQ(file.tensors().size(), 3u);
    for (const char* name : {"a", "b", "c"}) {
      EXPECT_EQ(as_text(file.data(file.get_tensor(name))), std::string(8, name[0]));
      file.drop(file.get_tensor(name));
    }
  }
}

TEST(SplitGguf, PartsThatDoNotBelongTogetherAreRefused) {
  const ScratchFolder folder;
  const std::string first = folder / "m-00001-of-00002.gguf", second = folder / "m-00002-of-00002.gguf";
  const auto opened = [&](const std::string& path, int32_t code = TN_E_FORMAT) {
    return refusal(code, [&] { GgufFile::open(path); });
  };
  write_part(first, {0, 2, {"a"}, 2});
  EXPECT_NE(opened(first, TN_E_NOT_FOUND).find("00002-of-00002"), std::string::npos);
  write_part(second, {0, 2, {"b"}, 2});
  EXPECT_NE(opened(first).find("not part 2 of 2"), std::string::npos);
  write_part(second, {1, 3, {"b"}, 2});
  EXPECT_NE(opened(first).find("not part 2 of 2"), std::string::npos);
  write_part(second, {1, 2, {"a"}, 2});
  EXPECT_NE(opened(first).find("earlier part"), std::string::npos);
  write_part(second, {1, 2, {"b", "c"}, 2});
  EXPECT_NE(opened(first).find("3 tensors where 2"), std::string::npos);
  write_part(folder / "renamed.gguf", {0, 2, {"a"}, 2});
  EXPECT_NE(opened(folder / "renamed.gguf").find("not named so"), std::string::npos);
  write_part(folder / "renamed.gguf", {1, 2, {"a"}, 2});
  EXPECT_NE(opened(folder / "renamed.gguf").find("not named so"), std::string::npos);
}

}  // namespace
}  // namespace tenon
