// The folder format of GPTQ tools: what is written comes back, is packed as the format says, and damaged files are refused by name.
#include <utility>

#include "sdk/integer/bits.h"
#include "sdk/testing/layout.h"

namespace tenon::gptq {
namespace {

using namespace sdk::testing;
using Hypers = std::map<std::string, std::string>;

class GptqLayout : public ::testing::TestWithParam<std::string> {
 protected:
  static int32_t write(TestCodec& codec, const tn_target& target, Coded& coded, External& to) {
    return layout_of(codec).to_external(codec.self, "gptq", &target, coded.pointers().data(), &to, External::put);
  }
  static int32_t read(TestCodec& codec, const tn_target& target, External& from, Coded& to) {
    return layout_of(codec).from_external(codec.self, "gptq", &target, &from, External::get, to.pointers().data());
  }
};
INSTANTIATE_TEST_SUITE_P(Objects, GptqLayout, ::testing::ValuesIn(plugin_objects()), [](const auto& info) { return object_label(info.param); });

// Element k of a stream of b-bit values in 32-bit words, low bits first, as the format's description has it.
uint32_t in_stream(const std::vector<uint32_t>& words, int64_t k, int bits) {
  uint32_t value = 0;
  for (int b = 0; b < bits; ++b) value |= (words[(k * bits + b) / 32] >> ((k * bits + b) % 32) & 1u) << b;
  return value;
}

TEST_P(GptqLayout, EveryFieldLiesWhereTheFormatSays) {
  const int64_t m = 64, n = 96, groups = 3;
  const tn_target target = make_target({m, n});
  for (const char* bits : {"2", "3", "4", "8"})
    for (const std::string version : {"gptq", "gptq_v2"}) {
      const int b = std::stoi(bits);
      TestCodec codec(GetParam(), {{"bits", bits}, {"group_size", "32"}, {"checkpoint_format", version}});
      Coded coded = codec.encode(target, normals(m * n));
      External file;
      codec.expect(write(codec, target, coded, file));
      const auto shape = [&](const char* name) { return std::vector<int64_t>(file.at(name).get()->shape, file.at(name).get()->shape + file.at(name).get()->ndim); };
      EXPECT_EQ(shape("../qweight"), (std::vector<int64_t>{n * b / 32, m}));
      EXPECT_EQ(shape("../qzeros"), (std::vector<int64_t>{groups, m * b / 32}));
      EXPECT_EQ(shape("../scales"), (std::vector<int64_t>{groups, m}));
      EXPECT_EQ(shape("../g_idx"), (std::vector<int64_t>{n}));
      const auto* words = file.at("../qweight").as<uint32_t>();
      const auto* zeros = file.at("../qzeros").as<uint32_t>();
      const std::vector<float> scales = file.at("../scales").floats(), decoded = codec.decode(target, coded);
      for (int64_t r = 0; r < m; ++r) {
        std::vector<uint32_t> column;
        for (int64_t k = 0; k < n * b / 32; ++k) column.push_back(words[k * m + r]);
        for (int64_t j = 0; j < n; ++j) {
          const int64_t g = file.at("../g_idx").as<int32_t>()[j];
          ASSERT_EQ(g, j / 32);
          const std::vector<uint32_t> row(zeros + g * m * b / 32, zeros + (g + 1) * m * b / 32);
          const uint32_t zero = version == "gptq" ? (in_stream(row, r, b) + 1) % (1u << b) : in_stream(row, r, b);
          ASSERT_EQ(scales[g * m + r] * (static_cast<float>(in_stream(column, j, b)) - static_cast<float>(zero)), decoded[r * n + j]) << bits << " bits, " << version;
        }
      }
      Coded again = codec.plan(target);
      codec.expect(read(codec, target, file, again));
      for (const std::string& part : coded.names) EXPECT_EQ(again[part].raw(), coded[part].raw()) << part;
    }
}

TEST_P(GptqLayout, AZeroPointOfZeroIsRaisedOrRefused) {
  const tn_target target = make_target({32, 32});
  std::vector<float> w = normals(32 * 32);
  for (float& v : w) v = std::fabs(v) + 0.1f;  // zero points of 0
  TestCodec codec(GetParam(), {{"bits", "4"}, {"group_size", "32"}}), second(GetParam(), {{"bits", "4"}, {"group_size", "32"}, {"checkpoint_format", "gptq_v2"}});
  Coded coded = codec.encode(target, w);
  External refused, file;
  EXPECT_EQ(write(codec, target, coded, refused), TN_E_UNSUPPORTED);
  EXPECT_NE(codec.host.error.find("checkpoint_format=gptq_v2"), std::string::npos) << codec.host.error;
  codec.expect(write(second, target, coded, file));
  Coded again = second.plan(target);
  second.expect(read(second, target, file, again));
  EXPECT_EQ(second.decode(target, again), codec.decode(target, coded));
  // Where the highest code is free the same weights have another name.
  for (int64_t r = 0; r < 32; ++r)
    for (int64_t j = 0; j < 32; ++j)
      if (sdk::code_at(coded["codes"].as<uint8_t>() + 16 * r, j, 4) == 15) coded["codes"].as<uint8_t>()[16 * r + j / 2] ^= static_cast<uint8_t>(1u << (j % 2 * 4));
  External raised;
  codec.expect(write(codec, target, coded, raised));
  codec.expect(read(codec, target, raised, again));
  EXPECT_EQ(codec.decode(target, again), codec.decode(target, coded));
}

TEST_P(GptqLayout, DamagedFilesAreRefusedByName) {
  const tn_target target = make_target({64, 64});
  const auto refused = [&](const Hypers& hypers, auto&& edit, const std::string& word) {
    TestCodec writer(GetParam(), {{"group_size", "32"}}), codec(GetParam(), hypers);
    Coded coded = writer.encode(target, normals(64 * 64)), to = codec.plan(target);
    External file;
    writer.expect(write(writer, target, coded, file));
    edit(file);
    EXPECT_EQ(read(codec, target, file, to), TN_E_FORMAT) << word;
    EXPECT_NE(codec.host.error.find(word), std::string::npos) << codec.host.error;
    EXPECT_NE(codec.host.error.find("blk.0.weight"), std::string::npos) << codec.host.error;
  };
  const Hypers same = {{"group_size", "32"}};
  for (const char* missing : {"../qweight", "../qzeros", "../scales"})
    refused(same, [&](External& e) { e.tensors.erase(missing); }, "no such tensor");
  refused({{"group_size", "64"}}, [](External&) {}, "[2, 8]");
  refused({{"group_size", "32"}, {"bits", "8"}}, [](External&) {}, "[16, 64]");
  refused(same, [](External& e) { e.at("../g_idx").as<int32_t>()[3] = 1; }, "neighbouring");
  refused(same, [](External& e) { e.at("../g_idx").as<int32_t>()[3] = -1; }, "group -1 of 2");
  refused(same, [](External& e) { e.at("../scales").as<uint16_t>()[5] = 0x7e00; }, "NaN");
  refused({{"group_size", "32"}, {"act_order", "true"}}, [](External& e) { e.tensors.erase("../g_idx"); }, "no such tensor");
  refused(same, [](External& e) {
    e.tensors.insert_or_assign("../scales", Tensor(sdk::kF32, {2, 64}));
  }, "f16");
  TestCodec odd(GetParam());
  const tn_target narrow = make_target({30, 64});
  Coded coded = odd.encode(narrow, normals(30 * 64));
  External file;
  EXPECT_EQ(write(odd, narrow, coded, file), TN_E_UNSUPPORTED);
  EXPECT_NE(odd.host.error.find("30 x 64"), std::string::npos) << odd.host.error;
}

TEST_P(GptqLayout, QuantizationConfigGoesOutAndComesBack) {
  std::string text;
  const tn_sink sink{sizeof sink, 0, &text, [](void* self, const void* data, uint64_t n) -> int32_t {
                       static_cast<std::string*>(self)->append(static_cast<const char*>(data), n);
                       return TN_OK;
                     }};
  const auto taken = [&] { return std::exchange(text, std::string()); };
  TestCodec codec(GetParam(), {{"bits", "3"}, {"group_size", "-1"}, {"sym", "true"}, {"act_order", "true"}, {"checkpoint_format", "gptq_v2"}});
  codec.expect(layout_of(codec).write_config(codec.self, "gptq", &sink));
  const std::string config = taken();
  codec.expect(layout_of(codec).read_config(codec.host.get(), "gptq", config.c_str(), &sink));
  EXPECT_EQ(taken(), "bits=3,group_size=-1,sym=true,act_order=true,static_groups=false,checkpoint_format=gptq_v2");
  codec.expect(layout_of(codec).read_config(codec.host.get(), "gptq", R"({"quant_method": "gptq", "bits": 4})", &sink));
  EXPECT_EQ(taken(), "bits=4,group_size=128,sym=false,act_order=false,static_groups=false,checkpoint_format=gptq");
  for (const char* bad : {"", "[]", "{", R"({"bits": 5})", R"({"bits": "four"})", R"({"bits": 4, "group_size": 100})", R"({"bits": 4, "checkpoint_format": "marlin"})",
                          R"({"bits": 4, "lm_head": true})", R"({"bits": 4, "dynamic": {"-:.*": {}}})", R"({"bits": 4, "pack_dtype": "int64"})"}) {
    codec.host.error.clear();
    EXPECT_LT(layout_of(codec).read_config(codec.host.get(), "gptq", bad, &sink), 0) << bad;
    EXPECT_FALSE(codec.host.error.empty()) << bad;
    EXPECT_EQ(taken(), "") << bad;
  }
}

}  // namespace
}  // namespace tenon::gptq
