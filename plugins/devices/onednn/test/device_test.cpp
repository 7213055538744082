// Negotiation, memory, streams, events and what the device says about itself.
#include <thread>

#include "fixture.h"

namespace tenon::onednn::test {
namespace {

class Device : public DeviceTest {};

TEST_P(Device, NegotiatesAndRefusesOtherMajors) {
  void* library = dlopen(GetParam().c_str(), RTLD_NOW | RTLD_LOCAL);
  const auto entry = reinterpret_cast<tn_plugin_entry_fn>(dlsym(library, TN_PLUGIN_ENTRY_NAME));
  const tn_plugin* plugin = nullptr;
  EXPECT_EQ(entry(TN_ABI_MAJOR, TN_ABI_MINOR + 1, host.get(), &plugin), TN_OK);
  EXPECT_STREQ(plugin->id, "onednn");
  EXPECT_EQ(entry(TN_ABI_MAJOR + 1, 0, host.get(), &plugin), TN_E_VERSION);
  EXPECT_FALSE(host.error.empty());
  EXPECT_EQ(api->get_extension("org.tenon.unknown/1"), nullptr);
  tn_device* second = nullptr;
  EXPECT_EQ(api->open(host.get(), 1, &second), TN_E_NOT_FOUND);
}

TEST_P(Device, MemoryIsAlignedAndWritable) {
  for (const uint64_t n : {uint64_t{1}, uint64_t{63}, uint64_t{4097}, uint64_t{(2u << 20) - 1}, uint64_t{2u << 20},
                           uint64_t{(5u << 20) + 1}}) {
    void* p = nullptr;
    ASSERT_EQ(api->alloc(device, n, &p), TN_OK) << host.error;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % TN_ALIGNMENT, 0u);
    ASSERT_EQ(api->fill(device, stream, p, 0x5A, n), TN_OK);
    EXPECT_EQ(static_cast<uint8_t*>(p)[0], 0x5A);
    EXPECT_EQ(static_cast<uint8_t*>(p)[n / 2], 0x5A);
    EXPECT_EQ(static_cast<uint8_t*>(p)[n - 1], 0x5A);
    api->free(device, p);
  }
  api->free(device, nullptr);
}

TEST_P(Device, RefusesWhatCannotFit) {
  void* p = &p;
  for (const uint64_t n : {uint64_t{1} << 60, ~uint64_t{0}}) {
    EXPECT_EQ(api->alloc(device, n, &p), TN_E_MEMORY);
    EXPECT_EQ(p, nullptr);
    EXPECT_NE(host.error.find(std::to_string(n)), std::string::npos) << host.error;
  }
  EXPECT_EQ(api->alloc(device, 0, &p), TN_E_ARGUMENT);
}

TEST_P(Device, CopiesOfEverySizeAndOverlap) {
  for (const uint64_t n : {uint64_t{0}, uint64_t{1}, uint64_t{1000}, uint64_t{(3u << 20) + 5}}) {
    std::vector<uint8_t> a(n), b(n);
    for (uint64_t i = 0; i < n; ++i) a[i] = static_cast<uint8_t>(i * 31 >> 3);
    ASSERT_EQ(api->copy(device, stream, b.data(), a.data(), n, TN_COPY_TO_DEVICE), TN_OK);
    EXPECT_EQ(a, b);
    if (n < 100) continue;
    ASSERT_EQ(api->copy(device, stream, a.data() + 17, a.data(), n - 17, TN_COPY_WITHIN), TN_OK);
    EXPECT_TRUE(std::equal(b.begin(), b.end() - 17, a.begin() + 17));
  }
  uint8_t x = 1, y = 2;
  EXPECT_EQ(api->copy(device, stream, &x, &y, 1, 9), TN_E_ARGUMENT);
}

TEST_P(Device, EventsTellTime) {
  tn_event *begin = nullptr, *end = nullptr;
  ASSERT_EQ(api->event_create(device, &begin), TN_OK);
  ASSERT_EQ(api->event_create(device, &end), TN_OK);
  ASSERT_EQ(api->event_record(device, begin, stream), TN_OK);
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  ASSERT_EQ(api->event_record(device, end, stream), TN_OK);
  ASSERT_EQ(api->stream_wait_event(device, stream, end), TN_OK);
  ASSERT_EQ(api->stream_wait(device, stream), TN_OK);
  double seconds = 0;
  ASSERT_EQ(api->event_seconds(device, begin, end, &seconds), TN_OK);
  EXPECT_GE(seconds, 0.002);
  api->event_destroy(device, begin);
  api->event_destroy(device, end);
}

TEST_P(Device, InfoIsTrueToItsSize) {
  tn_device_info info{};
  info.struct_size = sizeof info;
  ASSERT_EQ(api->info(device, 0, &info), TN_OK) << host.error;
  EXPECT_EQ(info.n_threads, static_cast<uint32_t>(omp_get_max_threads()));
  EXPECT_GT(info.total_bytes, 0u);
  EXPECT_LE(info.free_bytes, info.total_bytes);
  EXPECT_NE(std::string(info.name), "");
  EXPECT_EQ(std::string(info.arch).rfind("x86-64", 0), 0u);
  EXPECT_EQ(std::string(info.runtime).rfind("oneDNN ", 0), 0u);
  EXPECT_EQ(info.gemm_flops, 0.0);  // nothing is measured unasked
  EXPECT_TRUE(sdk::same(info.gemm_dtype, kF32) || sdk::same(info.gemm_dtype, kBF16));
  // An older host's shorter struct is not written past its end.
  tn_device_info old;
  std::memset(&old, 0xEE, sizeof old);
  old.struct_size = TN_SIZE_TO(tn_device_info, total_bytes);
  ASSERT_EQ(api->info(device, 0, &old), TN_OK);
  EXPECT_EQ(old.total_bytes, info.total_bytes);
  EXPECT_EQ(old.free_bytes, 0xEEEEEEEEEEEEEEEEu);
  ASSERT_EQ(api->info(device, 1, &info), TN_OK) << host.error;
  EXPECT_GT(info.gemm_flops, 1e8);
  EXPECT_GT(info.bytes_per_second, 1e8);
  tn_device_info again{};
  again.struct_size = sizeof again;
  ASSERT_EQ(api->info(device, 0, &again), TN_OK);
  EXPECT_EQ(again.gemm_flops, info.gemm_flops);  // measured once
}

TEST_P(Device, ThreadsShareTheDevice) {
  // Plans are made and used from several threads at once.
  std::vector<std::thread> workers;
  std::atomic<int> wrong{0};
  for (int w = 0; w < 4; ++w)
    workers.emplace_back([&, w] {
      omp_set_num_threads(1);
      for (int64_t i = 1; i < 20; ++i) {
        Tensor a(kF32, {i, 8}, std::vector<float>(i * 8, 1.0f)),
            b(kF32, {8, 4}, std::vector<float>(32, static_cast<float>(w))), c(kF32, {i, 4});
        const tn_gemm g{TN_SIZE_TO(tn_gemm, packed_b), 0, a.get(), b.get(), c.get(), nullptr, 1.0, 0.0, nullptr};
        uint64_t n = 0;
        if (api->gemm_workspace(device, &g, &n) != TN_OK) ++wrong;
        sdk::testing::Memory workspace(n);
        if (api->gemm(device, stream, &g, workspace.data(), n) != TN_OK) ++wrong;
        for (const float x : c.floats()) wrong += x != 8.0f * w;
      }
    });
  for (auto& w : workers) w.join();
  EXPECT_EQ(wrong, 0);
}

TENON_ON_EVERY_LEVEL(Device);

}  // namespace
}  // namespace tenon::onednn::test
