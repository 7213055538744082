// Streams, events and memory of the GPU devices: what is ordered by what, as the emulation has it; and on which cards an object runs.
#include <gtest/gtest.h>

#include "devices/emulated/opened.h"
#include "devices/gpu/architectures.h"
#include "tenon/host_memory.h"

namespace tenon::sdk::testing {
namespace {

class Order : public ::testing::Test {
 protected:
  Order() { gpu.must(gpu.api().stream_create(gpu.device, &beside)); }
  ~Order() override { gpu.api().stream_destroy(gpu.device, beside); }
  void fill(tn_stream* on, void* to, uint8_t byte, uint64_t n = 4) { gpu.must(gpu.api().fill(gpu.device, on, to, byte, n)); }
  tn_event* mark(tn_stream* on) {
    tn_event* e = nullptr;
    gpu.must(gpu.api().event_create(gpu.device, &e));
    gpu.must(gpu.api().event_record(gpu.device, e, on));
    return e;
  }
  uint8_t read(const void* from) {
    uint8_t byte = 0;
    gpu.must(gpu.api().copy(gpu.device, gpu.stream, &byte, from, 1, TN_COPY_TO_HOST));
    return byte;
  }

  Opened gpu{TENON_EMULATED_DEVICE};
  tn_stream* beside = nullptr;
};

// Without an event another stream's work has not come, however long ago it was given.
TEST_F(Order, StreamsKeepNoneButThatOfEvents) {
  void* const p = gpu.take(4);
  fill(gpu.stream, p, 1);
  fill(beside, p, 2);
  EXPECT_EQ(read(p), 1);
  tn_event* const done = mark(beside);
  fill(beside, p, 3);  // after the event
  gpu.must(gpu.api().stream_wait_event(gpu.device, gpu.stream, done));
  gpu.api().event_destroy(gpu.device, done);  // as soon as nobody will ask again
  EXPECT_EQ(read(p), 2);
  gpu.must(gpu.api().stream_wait(gpu.device, beside));
  EXPECT_EQ(read(p), 3);
}

TEST_F(Order, CopiesOfLockedMemoryComeInTheirTurn) {
  const auto* const locked = static_cast<const tn_host_memory*>(gpu.api().get_extension(TN_EXT_HOST_MEMORY));
  ASSERT_NE(locked, nullptr);
  void* host = nullptr;
  gpu.must(locked->alloc(gpu.device, 8, &host));
  auto* const bytes = static_cast<uint8_t*>(host);
  void* const p = gpu.take(4);
  bytes[0] = 5, bytes[4] = 6;
  gpu.must(gpu.api().copy(gpu.device, gpu.stream, p, host, 4, TN_COPY_TO_DEVICE));
  gpu.must(gpu.api().copy(gpu.device, gpu.stream, bytes + 4, p, 4, TN_COPY_TO_HOST));
  EXPECT_EQ(bytes[4], 6);  // nobody has waited
  bytes[0] = 7;            // and the source may not change yet
  gpu.must(gpu.api().stream_wait(gpu.device, gpu.stream));
  EXPECT_EQ(bytes[4], 7);
  locked->free(gpu.device, host);
  uint8_t plain = 8;
  gpu.must(gpu.api().copy(gpu.device, gpu.stream, p, &plain, 1, TN_COPY_TO_DEVICE));
  plain = 9;
  EXPECT_EQ(read(p), 8);
}

// Memory that is given back while work is queued is nobody's until that work is done; an allocation that needs it waits.
TEST_F(Order, MemoryGivenBackServesAgain) {
  tn_device_info info{};
  info.struct_size = sizeof info;
  gpu.must(gpu.api().info(gpu.device, 0, &info));
  const uint64_t most = info.total_bytes / 8 * 5;
  void *first = nullptr, *second = nullptr, *third = nullptr;
  gpu.must(gpu.api().alloc(gpu.device, most, &first));
  fill(gpu.stream, first, 1);
  gpu.api().free(gpu.device, first);
  gpu.must(gpu.api().alloc(gpu.device, most, &second));
  EXPECT_EQ(gpu.api().alloc(gpu.device, most, &third), TN_E_MEMORY);
  EXPECT_NE(gpu.said().find("emulated GPU cannot allocate"), std::string::npos) << gpu.said();
  gpu.api().free(gpu.device, second);
}

TEST(Architectures, CodeRunsOnLaterCardsOfItsGeneration) {
  EXPECT_TRUE(tenon::gpu::cuda_code_runs("80,90", 80));
  EXPECT_TRUE(tenon::gpu::cuda_code_runs("80,90", 86));
  EXPECT_TRUE(tenon::gpu::cuda_code_runs("80,90", 120));  // by PTX
  EXPECT_FALSE(tenon::gpu::cuda_code_runs("80,90", 75));
  EXPECT_FALSE(tenon::gpu::cuda_code_runs("90", 89));
  EXPECT_FALSE(tenon::gpu::cuda_code_runs("86,90", 80));
  EXPECT_TRUE(tenon::gpu::hip_code_runs("gfx90a,gfx1030", "gfx90a:sramecc+:xnack-"));
  EXPECT_TRUE(tenon::gpu::hip_code_runs("gfx90a,gfx1030", "gfx1030"));
  EXPECT_FALSE(tenon::gpu::hip_code_runs("gfx90a,gfx1030", "gfx1100"));
  EXPECT_FALSE(tenon::gpu::hip_code_runs("gfx90a", "gfx90"));
}

}  // namespace
}  // namespace tenon::sdk::testing
