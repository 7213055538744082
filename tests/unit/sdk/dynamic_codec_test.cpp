#include <dlfcn.h>

#include <gtest/gtest.h>

#include "sdk/testing/host.h"

namespace tenon::sdk::testing {
namespace {

class DynamicCodec : public ::testing::TestWithParam<std::string> {
 protected:
  int64_t differences(int what) {
    void* library = dlopen(GetParam().c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) fail(TN_E_IO, dlerror());
    return reinterpret_cast<int64_t (*)(int)>(dlsym(library, "dynamic_codec_differences"))(what);
  }
};
INSTANTIATE_TEST_SUITE_P(Cpu, DynamicCodec, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& p) { return object_label(p.param); });

TEST_P(DynamicCodec, EncodesEveryPositiveNumberSigned) {
  EXPECT_EQ(differences(0), 0);
}
TEST_P(DynamicCodec, EncodesEveryNegativeNumber) {
  EXPECT_EQ(differences(1), 0);
}
TEST_P(DynamicCodec, EncodesEveryNumberUnsigned) {
  EXPECT_EQ(differences(2), 0);
}
TEST_P(DynamicCodec, HandlesTailsSigned) {
  EXPECT_EQ(differences(3), 0);
}
TEST_P(DynamicCodec, HandlesTailsUnsigned) {
  EXPECT_EQ(differences(4), 0);
}
TEST_P(DynamicCodec, DividesExactlySigned) {
  EXPECT_EQ(differences(5), 0);
}
TEST_P(DynamicCodec, DividesExactlyUnsigned) {
  EXPECT_EQ(differences(6), 0);
}
TEST_P(DynamicCodec, KeepsSigns) {
  EXPECT_EQ(differences(7), 0);
}

}  // namespace
}  // namespace tenon::sdk::testing
