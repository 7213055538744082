// The bitsandbytes key set: a state dict that the library saved is read, and what is written is what it would have
// saved.
#include <utility>

#include "sdk/testing/layout.h"
#include "tests/reference/golden.h"

namespace tenon::nf4 {
namespace {

using namespace sdk::testing;

class Nf4Layout : public ::testing::TestWithParam<std::string> {
 protected:
  // The golden Linear4bit(40 -> 24) of kind nf4 or fp4.
  External saved_layer(const golden::File& file) const {
    External out;
    for (const std::string& name : file.names()) {
      const std::string prefix = "layer.weight";
      if (name.rfind(prefix, 0) != 0) continue;
      const std::string suffix = name.substr(prefix.size());
      if (suffix.find("absmax") == 1 || suffix.empty() || suffix.find("quant_state") == 1) {
        const auto bytes = file.u8(name);
        out.set(suffix, sdk::kU8, file.shape(name), bytes.data());
      } else {
        const auto values = file.f32(name);
        out.set(suffix, sdk::kF32, file.shape(name), values.data());
      }
    }
    return out;
  }
  int32_t read(TestCodec& codec, const tn_target& target, External& from, Coded& to) const {
    return layout_of(codec).from_external(codec.self, "bitsandbytes", &target, &from, External::get, to.pointers().data());
  }
};
INSTANTIATE_TEST_SUITE_P(Objects, Nf4Layout, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& info) { return object_label(info.param); });

TEST_P(Nf4Layout, ReadsAndWritesWhatTheLibrarySaves) {
  const tn_target target = make_target({24, 40});
  for (const std::string kind : {"nf4", "fp4"}) {
    const golden::File file("nf4/linear-" + kind + ".safetensors");
    External saved = saved_layer(file);
    TestCodec codec(GetParam(), {{"quant_type", kind}, {"double_quant", "true"}});
    Coded coded = codec.plan(target);
    codec.expect(read(codec, target, saved, coded));
    EXPECT_EQ(codec.decode(target, coded), file.f32("decoded"));
    EXPECT_EQ(codec.encode(target, file.f32("original"))["codes"].raw(), coded["codes"].raw());

    External written;
    codec.expect(layout_of(codec).to_external(codec.self, "bitsandbytes", &target, coded.pointers().data(), &written,
                                           External::put));
    ASSERT_EQ(written.tensors.size(), saved.tensors.size());
    for (const auto& [suffix, tensor] : saved.tensors) {
      ASSERT_TRUE(written.tensors.count(suffix)) << suffix;
      const Tensor& mine = written.tensors.at(suffix);
      if (suffix.find("quant_state") == 1) {
        const auto parse = [](const Tensor& t) {
          return nlohmann::json::parse(t.as<char>(), t.as<char>() + t.bytes());
        };
        EXPECT_EQ(parse(mine), parse(tensor));
      } else {
        EXPECT_EQ(mine.raw(), tensor.raw()) << suffix;
        EXPECT_EQ(mine.get()->ndim, tensor.get()->ndim) << suffix;
      }
    }
  }
}

TEST_P(Nf4Layout, PlainScalesSurviveTheRoundTrip) {
  const tn_target target = make_target({33, 65}, sdk::kBF16);
  TestCodec codec(GetParam(), {{"blocksize", "128"}});
  Coded coded = codec.encode(target, normals(33 * 65)), again = codec.plan(target);
  External file;
  codec.expect(
      layout_of(codec).to_external(codec.self, "bitsandbytes", &target, coded.pointers().data(), &file, External::put));
  codec.expect(read(codec, target, file, again));
  EXPECT_EQ(again["codes"].raw(), coded["codes"].raw());
  EXPECT_EQ(again["absmax"].raw(), coded["absmax"].raw());
}

TEST_P(Nf4Layout, DamagedOrForeignFilesAreRefusedByName) {
  const tn_target target = make_target({24, 40});
  const golden::File file("nf4/linear-nf4.safetensors");
  const std::string
      state = ".quant_state.bitsandbytes__nf4",
      good =
          R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [24, 40], "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 1.5})";
  const auto refused = [&](const std::map<std::string, std::string>& options, auto&& edit, const std::string& word) {
    External saved = saved_layer(file);
    saved.set_text(state, good);
    edit(saved);
    TestCodec codec(GetParam(), options);
    Coded coded = codec.plan(target);
    EXPECT_EQ(read(codec, target, saved, coded), TN_E_FORMAT);
    EXPECT_NE(codec.host.error.find(word), std::string::npos) << codec.host.error;
    EXPECT_NE(codec.host.error.find("blk.0.weight"), std::string::npos) << codec.host.error;
  };
  const std::map<std::string, std::string> twice = {{"double_quant", "true"}};
  const auto nothing = [](External&) {};
  refused({{"blocksize", "128"}, {"double_quant", "true"}}, nothing, "nf4:blocksize=64");
  refused({}, nothing, "nf4:double_quant=true");
  refused({{"quant_type", "fp4"}, {"double_quant", "true"}}, nothing, "quant_type");
  for (const char* missing : {"", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"})
    refused(
        twice, [&](External& e) { e.tensors.erase(missing); }, "no such tensor");
  refused(
      twice,
      [&](External& e) {
        e.set("", sdk::kU8, {479, 1}, std::vector<uint8_t>(479).data());
      },
      "479");
  refused(
      twice, [&](External& e) { e.tensors.at(".quant_map").as<float>()[3] = -0.4f; }, "entry 3");
  refused(
      twice, [&](External& e) { e.tensors.at(".nested_quant_map").as<float>()[0] = NAN; }, "entry 0");
  for (const char* text :
       {"", "[]", "{", "{\"quant_type\": 7}", "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"shape\": [24, -40]}",
        "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"shape\": [9223372036854775807, 3]}"})
    refused(
        twice, [&](External& e) { e.set_text(state, text); }, state);
  refused(
      twice, [&](External& e) { e.set_text(state, good.substr(0, good.find("1.5")) + "\"x\"}"); }, "nested_offset");

  TestCodec codec(GetParam());
  External empty;
  Coded coded = codec.plan(target);
  EXPECT_EQ(layout_of(codec).from_external(codec.self, "gptq", &target, &empty, External::get, coded.pointers().data()),
            TN_E_UNSUPPORTED);
}

TEST_P(Nf4Layout, QuantizationConfigGoesOutAndComesBack) {
  std::string text;
  const tn_sink sink{sizeof sink, 0, &text, [](void* self, const void* data, uint64_t n) -> int32_t {
                       static_cast<std::string*>(self)->append(static_cast<const char*>(data), n);
                       return TN_OK;
                     }};
  const auto taken = [&] { return std::exchange(text, std::string()); };
  for (const char* kind : {"nf4", "fp4"})
    for (const char* twice : {"true", "false"}) {
      TestCodec codec(GetParam(), {{"quant_type", kind}, {"double_quant", twice}});
      codec.expect(layout_of(codec).write_config(codec.self, "bitsandbytes", &sink));
      const std::string config = taken();
      codec.expect(layout_of(codec).read_config(codec.host.get(), "bitsandbytes", config.c_str(), &sink));
      EXPECT_EQ(taken(), std::string("quant_type=") + kind + ",double_quant=" + twice);
    }
  TestCodec wide(GetParam(), {{"blocksize", "128"}});
  EXPECT_EQ(layout_of(wide).write_config(wide.self, "bitsandbytes", &sink), TN_E_UNSUPPORTED);
  EXPECT_NE(wide.host.error.find("64"), std::string::npos) << wide.host.error;
  // As older versions of the library wrote it.
  wide.expect(layout_of(wide).read_config(wide.host.get(), "bitsandbytes", R"({"load_in_4bit": true})", &sink));
  EXPECT_EQ(taken(), "quant_type=fp4,double_quant=false");
  for (const char* bad : {"", "[]", "{", "{}", R"({"load_in_8bit": true})", R"({"load_in_4bit": true, "bnb_4bit_quant_type": 7})",
                          R"({"load_in_4bit": true, "bnb_4bit_quant_type": "af4"})", R"({"load_in_4bit": true, "bnb_4bit_quant_storage": "int4"})"}) {
    wide.host.error.clear();
    EXPECT_LT(layout_of(wide).read_config(wide.host.get(), "bitsandbytes", bad, &sink), 0) << bad;
    EXPECT_FALSE(wide.host.error.empty()) << bad;
    EXPECT_EQ(taken(), "") << bad;
  }
}

}  // namespace
}  // namespace tenon::nf4
