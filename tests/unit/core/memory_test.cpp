// The accounted memory: exact books, the limit, the pool's economy, and the counting form that the planner uses.
#include "core/memory/memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/memory/pool.h"

namespace tenon {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

// A device of a fixed capacity that knows what it gave out.
struct FakeDevice {
  uint64_t capacity = UINT64_MAX, held = 0, most_held = 0;
  int allocations = 0;
  std::map<void*, uint64_t> given;
  tn_device_api api{};

  FakeDevice() {
    api.struct_size = sizeof(tn_device_api);
    api.alloc = [](tn_device* self, uint64_t n_bytes, void** out) -> int32_t {
      FakeDevice& d = *reinterpret_cast<FakeDevice*>(self);
      if (n_bytes > d.capacity - d.held) return TN_E_MEMORY;
      *out = std::aligned_alloc(TN_ALIGNMENT, (n_bytes + TN_ALIGNMENT - 1) / TN_ALIGNMENT * TN_ALIGNMENT);
      d.given[*out] = n_bytes;
      d.held += n_bytes;
      d.most_held = std::max(d.most_held, d.held);
      ++d.allocations;
      return TN_OK;
    };
    api.free = [](tn_device* self, void* memory) {
      FakeDevice& d = *reinterpret_cast<FakeDevice*>(self);
      d.held -= d.given.at(memory);
      d.given.erase(memory);
      std::free(memory);
    };
  }
  tn_device* handle() { return reinterpret_cast<tn_device*>(this); }
};

TEST(Memory, FillsFreshBlocksWhereATestAsksForIt) {
  FakeDevice device;
  static tn_stream* filled_on;
  tn_stream* const stream = reinterpret_cast<tn_stream*>(&device);
  device.api.fill = [](tn_device*, tn_stream* on, void* to, uint8_t byte, uint64_t n) -> int32_t { return filled_on = on, std::memset(to, byte, n), TN_OK; };
  {
    Memory memory(&device.api, device.handle(), 0);
    memory.fill_fresh(0xff, stream);
    for (int turn = 0; turn < 2; ++turn) {  // also where a block is used again
      const Block block = memory.allocate(Category::kWorkspace, 100);
      auto* const values = static_cast<float*>(block.data());
      for (int i = 0; i < 25; ++i) EXPECT_TRUE(std::isnan(values[i])) << i;
      std::fill_n(values, 25, 1.0f);
    }
  }
  EXPECT_EQ(filled_on, stream);
  Memory counting(0);
  counting.fill_fresh(0xff, nullptr);
  EXPECT_TRUE(counting.allocate(Category::kWorkspace, 100));
}

TEST(Memory, CountsEveryByteByCategoryAndRemembersThePeak) {
  Memory memory(0);
  EXPECT_TRUE(memory.counts_only());
  Block a = memory.allocate(Category::kWeights, 100);
  EXPECT_EQ(a.bytes(), 128u);
  {
    const Block b = memory.allocate(Category::kActivations, 1000);
    EXPECT_EQ(memory.use().total_live, 128u + 1024u);
  }
  const Block c = memory.allocate(Category::kGradients, 64);
  const MemoryUse use = memory.use();
  EXPECT_EQ(use.total_live, 128u + 64u);
  EXPECT_EQ(use.total_peak, 128u + 1024u);
  EXPECT_EQ(use.at_peak[0], 128u);
  EXPECT_EQ(use.at_peak[static_cast<size_t>(Category::kActivations)], 1024u);
  EXPECT_EQ(use.at_peak[static_cast<size_t>(Category::kGradients)], 0u);
  EXPECT_EQ(use.peak[static_cast<size_t>(Category::kGradients)], 64u);
  memory.reset_peak();
  EXPECT_EQ(memory.use().total_peak, 192u);
  a = Block();
  EXPECT_EQ(memory.use().total_live, 64u);
}

TEST(Memory, CountingGivesDistinctAddressesWithoutMemory) {
  Memory memory(0);
  const Block a = memory.allocate(Category::kWeights, uint64_t{1} << 50);
  const Block b = memory.allocate(Category::kWeights, 1);
  ASSERT_TRUE(a && b);
  EXPECT_EQ(static_cast<char*>(b.data()) - static_cast<char*>(a.data()), int64_t{1} << 50);
}

TEST(Memory, ZeroBytesGiveAnEmptyBlock) {
  Memory memory(0);
  EXPECT_FALSE(memory.allocate(Category::kWeights, 0));
  EXPECT_EQ(memory.use().total_live, 0u);
}

TEST(Memory, TheLimitIsExactAndItsErrorSaysWhatToDo) {
  FakeDevice device;
  Memory memory(&device.api, device.handle(), 1 * kMiB);
  const Block a = memory.allocate(Category::kWeights, kMiB - 64);
  const Block b = memory.allocate(Category::kCodec, 64);
  try {
    (void)memory.allocate(Category::kActivations, 1);
    FAIL() << "the limit was not held";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), TN_E_MEMORY);
    EXPECT_STREQ(
        e.what(),
        "activations need 1 B of memory on top of the 1.00 MiB in use (weights 1.00 MiB, codec 64 B), over the memory "
        "limit of 1.00 MiB; raise the limit, or ask for less at a time (a smaller batch or shorter sequences)");
  }
  EXPECT_THROW((void)memory.allocate(Category::kActivations, UINT64_MAX), Error);
  EXPECT_EQ(memory.use().total_live, kMiB);
}

TEST(Memory, ASizeThatWouldWrapIsRefusedWithoutALimitToo) {
  Memory memory(0);
  EXPECT_THROW((void)memory.allocate(Category::kActivations, UINT64_MAX - 3), Error);
}

TEST(Memory, ADeviceWithoutMemoryIsNamed) {
  FakeDevice device;
  device.capacity = 15 * kMiB;
  Memory memory(&device.api, device.handle(), 0);
  const Block a =
      memory.allocate(Category::kWeights, 12 * kMiB);  // a chunk does not fit: this block alone does
  try {
    (void)memory.allocate(Category::kGradients, 12 * kMiB);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), TN_E_MEMORY);
    EXPECT_NE(std::string(e.what()).find("the device has no more"), std::string::npos);
  }
}

TEST(Memory, FreeChunksAreGivenBackBeforeTheDeviceRunsDry) {
  FakeDevice device;
  device.capacity = 100 * kMiB;
  Memory memory(&device.api, device.handle(), 0);
  { const Block a = memory.allocate(Category::kActivations, 80 * kMiB); }
  const Block b = memory.allocate(Category::kActivations, 90 * kMiB);
  EXPECT_TRUE(b);
}

TEST(Memory, ARepeatedStepCostsTheDeviceNothing) {
  FakeDevice device;
  Memory memory(&device.api, device.handle(), 0);
  std::vector<Block> weights;
  for (int i = 0; i < 12; ++i) weights.push_back(memory.allocate(Category::kWeights, 7 * kMiB));
  std::vector<Block> states;
  const auto step = [&](bool first) {
    std::vector<Block> activations;
    for (int i = 0; i < 12; ++i) {
      activations.push_back(memory.allocate(Category::kActivations, 24 * kMiB));
      activations.push_back(memory.allocate(Category::kActivations, 100'000));
      const Block scratch = memory.allocate(Category::kWorkspace, 3 * kMiB);
    }
    { const Block logits = memory.allocate(Category::kActivations, 300 * kMiB); }
    for (int i = 11; i >= 0; --i) {
      const Block gradient = memory.allocate(Category::kGradients, 28 * kMiB);
      if (first) states.push_back(memory.allocate(Category::kOptimizerState, 14 * kMiB));
      activations.pop_back();
      activations.pop_back();
    }
  };
  step(true);
  step(false);
  const int allocations = device.allocations;
  for (int i = 0; i < 5; ++i) step(false);
  EXPECT_EQ(device.allocations, allocations);
  EXPECT_LE(device.most_held, memory.use().total_peak + 150 * kMiB);
}

// Little blocks that are kept for the next of their size do not stand in the way of a large one.
TEST(Memory, KeptBlocksGiveWayBeforeTheDeviceIsAsked) {
  constexpr uint64_t kLittle = 64 << 10, kCount = Pool::kChunkBytes / kLittle;
  FakeDevice device;
  Memory memory(&device.api, device.handle(), 0);
  {
    std::vector<Block> little;
    for (uint64_t i = 0; i < kCount; ++i) little.push_back(memory.allocate(Category::kActivations, kLittle));
    EXPECT_EQ(device.allocations, 1);
    for (uint64_t i = 0; i < kCount; ++i) little[i * 389 % kCount] = Block();
  }
  const Block large = memory.allocate(Category::kActivations, Pool::kChunkBytes - kLittle);
  EXPECT_EQ(device.allocations, 1);
}

TEST(Memory, BlocksNeverOverlapAndAllMemoryReturns) {
  FakeDevice device;
  {
    Memory memory(&device.api, device.handle(), 0);
    std::mt19937 random(1);
    std::map<char*, Block> live;
    uint64_t sum = 0;
    for (int i = 0; i < 4000; ++i) {
      if (live.empty() || random() % 5 < 3) {
        const uint64_t bytes = random() % 16 == 0 ? 1 + random() % (40 * kMiB) : 1 + random() % (256 * 1024);
        if (sum + bytes > 400 * kMiB) {
          sum -= live.begin()->second.bytes();
          live.erase(live.begin());
          continue;
        }
        Block block = memory.allocate(Category::kActivations, bytes);
        sum += block.bytes();
        char* const data = static_cast<char*>(block.data());
        ASSERT_EQ(reinterpret_cast<uintptr_t>(data) % TN_ALIGNMENT, 0u);
        const auto next = live.lower_bound(data);
        if (next != live.end()) {
          ASSERT_LE(data + block.bytes(), next->first);
        }
        if (next != live.begin()) {
          const auto previous = std::prev(next);
          ASSERT_LE(previous->first + previous->second.bytes(), data);
        }
        live.emplace(data, std::move(block));
      } else {
        const auto victim = std::next(live.begin(), static_cast<long>(random() % live.size()));
        sum -= victim->second.bytes();
        live.erase(victim);
      }
      ASSERT_EQ(memory.use().total_live, sum);
    }
    EXPECT_LE(device.most_held, memory.use().total_peak + 150 * kMiB);
  }
  EXPECT_EQ(device.held, 0u);
}

TEST(Memory, ServesSeveralThreads) {
  FakeDevice device;
  Memory memory(&device.api, device.handle(), 0);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 500; ++i) {
        const Block a = memory.allocate(Category::kActivations, 1000 + 64 * t);
        const Block b = memory.allocate(Category::kWorkspace, 5000);
        std::memset(a.data(), t, a.bytes());
        std::memset(b.data(), t, b.bytes());
        ASSERT_EQ(static_cast<char*>(a.data())[a.bytes() - 1], t);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(memory.use().total_live, 0u);
  EXPECT_EQ(device.allocations, 1);
}

TEST(FormatBytes, ShowsThreeDigits) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1024), "1.00 KiB");
  EXPECT_EQ(format_bytes(10 * kMiB + kMiB / 2), "10.5 MiB");
  EXPECT_EQ(format_bytes(uint64_t{1280} * kMiB), "1.25 GiB");
  EXPECT_EQ(format_bytes(1024 * kMiB - 1), "1.00 GiB");
}

}  // namespace
}  // namespace tenon
