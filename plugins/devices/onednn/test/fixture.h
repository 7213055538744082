// The shipped objects of the device, one test instance per CPU level that this machine runs.
#pragma once

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <functional>
#include <random>

#include "sdk/testing/host.h"
#include "sdk/testing/threads.h"
#include "tenon/ops.h"

namespace tenon::onednn::test {

using sdk::kBF16;
using sdk::kF16;
using sdk::kF32;
using sdk::kF64;
using sdk::kI32;
using sdk::testing::Tensor;
using sdk::testing::View;

class DeviceTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const tn_plugin& plugin = sdk::testing::load_plugin(host, GetParam());
    ASSERT_EQ(plugin.kind, TN_KIND_DEVICE);
    api = static_cast<const tn_device_api*>(plugin.api);
    ops = static_cast<const tn_ops*>(api->get_extension(TN_EXT_OPS));
    ASSERT_NE(ops, nullptr);
    uint32_t n = 0;
    ASSERT_EQ(api->count(host.get(), &n), TN_OK);
    ASSERT_EQ(n, 1u);
    ASSERT_EQ(api->open(host.get(), 0, &device), TN_OK);
    ASSERT_EQ(api->stream_create(device, &stream), TN_OK);
    threads = omp_get_max_threads();
  }
  void TearDown() override {
    omp_set_num_threads(threads);
    if (stream) api->stream_destroy(device, stream);
    if (device) api->close(device);
  }

  // In a workspace of the size that the product asks for.
  void multiply(const tn_gemm& g) {
    uint64_t bytes = 0;
    ASSERT_EQ(api->gemm_workspace(device, &g, &bytes), TN_OK) << host.error;
    sdk::testing::Memory workspace(bytes, 0xFF);
    ASSERT_EQ(api->gemm(device, stream, &g, workspace.data(), bytes), TN_OK) << host.error;
    EXPECT_TRUE(workspace.intact());
  }

  sdk::testing::FakeHost host;
  const tn_device_api* api = nullptr;
  const tn_ops* ops = nullptr;
  tn_device* device = nullptr;
  tn_stream* stream = nullptr;
  int threads = 1;
};

inline std::string label(const testing::TestParamInfo<std::string>& info) {
  return sdk::testing::object_label(info.param);
}

#define TENON_ON_EVERY_LEVEL(suite)                                                                 \
  INSTANTIATE_TEST_SUITE_P(Levels, suite, testing::ValuesIn(tenon::sdk::testing::plugin_objects()), \
                           tenon::onednn::test::label)

// Normal numbers, exactly representable in `dtype` so that references start from what the device reads.
inline std::vector<float> noise(int64_t n, uint32_t seed, tn_dtype dtype = kF32, float scale = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> v(static_cast<size_t>(n));
  for (float& x : v) {
    x = normal(generator);
    sdk::with_float_type(dtype, "test noise", [&]<class T>(T) { x = sdk::to_float(sdk::from_float<T>(x)); });
  }
  return v;
}

inline Tensor ints(const std::vector<int32_t>& values) {
  Tensor t(kI32, {static_cast<int64_t>(values.size())});
  std::copy(values.begin(), values.end(), t.as<int32_t>());
  return t;
}

// Half a unit in the last place of `dtype` relative to the value, times `units`.
inline double tolerance(tn_dtype dtype, double units = 1.0) {
  return units * (sdk::same(dtype, kBF16) ? 0x1p-8 : sdk::same(dtype, kF16) ? 0x1p-11 : 0x1p-24);
}

inline const char* name_of(tn_dtype d) {
  return sdk::same(d, kF32) ? "f32" : sdk::same(d, kBF16) ? "bf16" : "f16";
}

}  // namespace tenon::onednn::test
