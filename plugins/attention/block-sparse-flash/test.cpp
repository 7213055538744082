// Against dense attention with the expanded mask, in f64; and against flash-attention's own definition where the map is
// full.
#include "sdk/testing/attention.h"

namespace tenon::block_sparse::testing {
namespace {

using namespace sdk::testing::attention;
using Hypers = std::map<std::string, std::string>;

// The emulated GPU is slow: it gets the short cases.
class BlockSparse : public Objects {
 protected:
  bool brief() const { return sdk::testing::is_emulated(GetParam()); }
};
const Hypers kNone{{"pattern", "none"}};

// A map that owns its arrays.
struct Map {
  std::vector<int64_t> begin;
  std::vector<int32_t> column;
  tn_block_map map{};
  Map(uint32_t maps, uint32_t block_q, uint32_t block_k, int64_t rows, int64_t columns,
      const std::function<bool(int64_t, int64_t, int64_t)>& shown) {
    for (uint32_t m = 0; m < maps; ++m) {
      begin.push_back(static_cast<int64_t>(column.size()));
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < columns; ++j)
          if (shown(m, i, j)) column.push_back(static_cast<int32_t>(j));
        begin.push_back(static_cast<int64_t>(column.size()));
      }
    }
    map = {sizeof map, maps, block_q, block_k, rows, columns, begin.data(), column.data()};
  }
  Map(const Map&) = delete;
  tn_mask_term term() const { return {sizeof(tn_mask_term), TN_MASK_BLOCKS, 0, 0, 0, &map}; }
};

TEST_P(BlockSparse, AFullCausalMapIsTheDenseKernelBitForBit) {
  Case dense{.batch = 2, .t_q = 400, .t_k = 400, .heads = 6, .kv_heads = 2, .mask = {causal()}};
  if (brief()) dense.batch = dense.kv_heads = 1, dense.heads = 2, dense.d = dense.e = 16;
  const Map full(1, 64, 64, 7, 7, [](int64_t, int64_t i, int64_t j) { return j <= i; });
  Case mapped = dense;
  mapped.mask.push_back(full.term());
  Runner a(GetParam(), dense, kNone), b(GetParam(), mapped, kNone);
  for (Runner* run : {&a, &b}) {
    ASSERT_EQ(run->forward(), TN_OK) << run->error();
    ASSERT_EQ(run->backward(), TN_OK) << run->error();
  }
  for (const uint32_t port : {TN_PORT_O, TN_PORT_LSE})
    EXPECT_EQ(a.bindings.at(port).raw(), b.bindings.at(port).raw()) << port;
  EXPECT_LT(error(b.values(TN_PORT_DQ), widen(a.values(TN_PORT_DQ))), 1e-6);
}

TEST_P(BlockSparse, RandomMapsAreDenseAttentionUnderTheExpandedMask) {
  std::mt19937 random(5);
  for (int trial = 0; trial < 6; ++trial) {
    const uint32_t block_q = 16u << trial % 3, block_k = 16u << (trial + 1) % 3, maps = trial % 2 ? 2 : 1;
    Case c{.batch = 1 + trial % 2,
           .t_q = 250,
           .t_k = 250,
           .heads = 6,
           .kv_heads = 2,
           .d = 32,
           .e = 24,
           .mask = {causal()}};
    if (brief()) c.t_q = c.t_k = 110, c.d = 16, c.e = 8;
    if (trial == 3) c.mask.push_back(window(100, 0)), c.mask.push_back(sink(5)), c.dropout = 0.2;
    if (trial == 4) c.mask.clear(), c.softcap = 4;
    if (trial == 5) c.t_q = 40, c.q_pos = c.t_k - 40, c.sink_logit = true;
    const Map map(maps, block_q, block_k, 256 / block_q, 256 / block_k,
                  [&](int64_t, int64_t, int64_t) { return random() % 3 == 0; });
    c.mask.push_back(map.term());
    SCOPED_TRACE(trial);
    Runner run(GetParam(), c, {{"pattern", "none"}, {"require_diagonal", "false"}});
    expect_forward(run, 2e-6);
    expect_backward(run, c, 1e-5);
  }
}

// What kernels on matrix units take: 16-bit types in widths of 64 and 128, aligned; on objects of the CPU the same cases in their own kernels.
TEST_P(BlockSparse, SixteenBitTypesInWholeTiles) {
  std::mt19937 random(11);
  for (int trial = 0; trial < 8; ++trial) {
    const uint32_t block_q = 16u << trial % 4, block_k = 16u << (trial + 2) % 4, maps = trial % 2 ? 2 : 1;
    const int64_t width = trial % 3 == 2 ? 128 : 64;
    Case c{.t_q = 130, .t_k = 130, .heads = trial % 2 ? 6 : 2, .kv_heads = trial % 2 ? 2 : 1, .d = width, .e = width, .mask = {causal()}};
    c.dtype = trial % 2 ? sdk::kF16 : sdk::kBF16;
    if (trial == 1) c.batch = 2, c.t_q = c.t_k = 70;
    if (trial == 3) c.mask.push_back(window(70, 0)), c.mask.push_back(sink(5)), c.sink_logit = true, c.d_lse = true;
    if (trial == 4) c.mask.clear();
    if (trial == 5) c.t_q = 50, c.q_pos = 80;
    if (trial == 6) c.segments = {{0, 40, 0, 40, 0, 0}, {40, 1, 40, 1, 0, 0}, {41, 89, 41, 89, 0, 0}};
    if (trial == 7) c.segments = {{0, 50, 0, 100, 50, 0}, {50, 40, 0, 130, 80, -30}};  // keys that two segments share, rows of none
    const Map map(maps, block_q, block_k, 256 / block_q, 256 / block_k, [&](int64_t, int64_t, int64_t) { return random() % 3 != 0; });
    c.mask.push_back(map.term());
    SCOPED_TRACE(trial);
    const double step = c.dtype.code == TN_BFLOAT ? 0x1p-8 : 0x1p-11;
    Runner run(GetParam(), c, {{"pattern", "none"}, {"require_diagonal", "false"}});
    expect_forward(run, 2 * step);
    expect_backward(run, c, 4 * step);
  }
  const Case c{.t_q = 180, .t_k = 180, .heads = 2, .kv_heads = 1, .mask = {causal()}, .dtype = sdk::kBF16};
  for (const std::string pattern : {"butterfly", "band", "stride"}) {
    Runner run(GetParam(), c, {{"pattern", pattern}, {"block", "32"}, {"local_blocks", "2"}, {"vert_stride", "3"}});
    expect_forward(run, 0x1p-7);
    expect_backward(run, c, 0x1p-6);
  }
}

TEST_P(BlockSparse, GeneratedPatternsShowWhatTheySay) {
  const auto shows = [](const std::string& pattern, int64_t i, int64_t j) {
    if (j < 1) return true;
    if (pattern == "butterfly") return i == j || std::has_single_bit(static_cast<uint64_t>(i ^ j));
    if (std::abs(i - j) < 2) return true;
    return pattern == "stride" && j % 3 == 2;
  };
  for (const std::string pattern : {"butterfly", "band", "stride"})
    for (const bool masked : {true, false}) {
      Case c{.t_q = 300, .t_k = 300, .heads = 2, .kv_heads = 1, .d = 16, .e = 16};
      if (brief()) c.heads = 1, c.d = c.e = 8;
      if (masked) c.mask.push_back(causal());
      SCOPED_TRACE(pattern);
      const Hypers hypers{{"pattern", pattern}, {"block", "32"}, {"local_blocks", "2"}, {"vert_stride", "3"}};
      Runner run(GetParam(), c, hypers);
      for (int64_t i = 0; i < 300; i += 7)
        for (int64_t j = 0; j < 300; j += 5)
          ASSERT_EQ(run.dense().factor(0, i, j) != 0, shows(pattern, i / 32, j / 32)) << i << " " << j;
      expect_forward(run, 2e-6);
      expect_backward(run, c, 1e-5);
      tn_attention_plan plan{};
      plan.struct_size = sizeof plan;
      ASSERT_EQ(run.plan(plan), TN_OK);
      double pairs = 0;
      for (int64_t i = 0; i < 300; ++i)
        for (int64_t j = 0; j < 300; ++j) pairs += (!masked || j <= i) && shows(pattern, i / 32, j / 32);
      EXPECT_EQ(plan.forward.flops, 2 * static_cast<double>(c.heads * (c.d + c.e)) * pairs);
    }
}

TEST_P(BlockSparse, PatternAndMapBothHold) {
  const Map map(1, 64, 32, 5, 10, [](int64_t, int64_t, int64_t j) { return j % 2 == 0; });
  const Case c{.t_q = 300, .t_k = 300, .heads = 2, .kv_heads = 1, .d = 16, .e = 16, .mask = {causal(), map.term()}};
  Runner run(GetParam(), c, {{"block", "32"}, {"require_diagonal", "false"}});
  expect_forward(run, 2e-6);
  expect_backward(run, c, 1e-5);
}

TEST_P(BlockSparse, EmptyRowsAreZero) {
  const Map map(1, 16, 16, 4, 4, [](int64_t, int64_t i, int64_t j) { return i != 2 && j <= i; });
  const Case c{.t_q = 64, .t_k = 64, .heads = 2, .kv_heads = 1, .d = 8, .e = 8, .mask = {causal(), map.term()}};
  Runner run(GetParam(), c, {{"pattern", "none"}, {"require_diagonal", "false"}});
  expect_backward(run, c, 1e-5);
  const auto o = run.values(TN_PORT_O), lse = run.values(TN_PORT_LSE), dq = run.values(TN_PORT_DQ);
  for (int64_t i = 32; i < 48; ++i) {
    EXPECT_EQ(lse[i], -INFINITY);
    for (int64_t x = 0; x < 16; ++x) {
      EXPECT_EQ(o[i * 16 + x], 0.0f);
      EXPECT_EQ(dq[i * 16 + x], 0.0f);
    }
  }
}

TEST_P(BlockSparse, SameBitsForAnyNumberOfThreads) {
  Case c{.batch = 2,
               .t_q = 500,
               .t_k = 500,
               .heads = 6,
               .kv_heads = 2,
               .d = 16,
               .e = 16,
               .mask = {causal()},
               .dropout = 0.1};
  if (brief()) c.t_q = c.t_k = 90, c.heads = 2, c.kv_heads = 1;
  std::map<uint32_t, std::vector<uint8_t>> first;
  for (const int threads : {1, 2, 5}) {
    Runner run(GetParam(), c, {{"block", "16"}});
    run.threads = threads;
    ASSERT_EQ(run.forward(), TN_OK) << run.error();
    ASSERT_EQ(run.backward(), TN_OK) << run.error();
    for (const uint32_t port : {TN_PORT_O, TN_PORT_LSE, TN_PORT_DQ, TN_PORT_DK, TN_PORT_DV}) {
      const auto [at, fresh] = first.emplace(port, run.bindings.at(port).raw());
      EXPECT_EQ(at->second, run.bindings.at(port).raw()) << threads << " threads, port " << port;
    }
  }
}

TEST_P(BlockSparse, RefusalsNameTheReason) {
  const auto refuses = [&](const Map& map, const char* words) {
    Runner run(GetParam(), {.t_q = 64, .t_k = 64, .heads = 2, .kv_heads = 2, .mask = {causal(), map.term()}}, kNone);
    EXPECT_EQ(run.forward(), TN_E_ARGUMENT);
    EXPECT_NE(run.error().find(words), std::string::npos) << run.error();
  };
  const auto all = [](int64_t, int64_t, int64_t) { return true; };
  refuses(Map(1, 24, 16, 4, 4, all), "24 positions");
  refuses(Map(3, 16, 16, 4, 4, all), "3 key heads");
  refuses(Map(1, 16, 16, 4, 4, [](int64_t, int64_t i, int64_t j) { return i != j; }), "diagonal");
  Map wrong(1, 16, 16, 4, 4, all);
  wrong.column[2] = 9;
  refuses(wrong, "below 4");
  wrong.column[2] = 0;
  refuses(wrong, "rising order");
}

INSTANTIATE_TEST_SUITE_P(Cpu, BlockSparse, ::testing::ValuesIn(sdk::testing::plugin_objects()),
                         [](const auto& info) { return sdk::testing::object_label(info.param); });

}  // namespace
}  // namespace tenon::block_sparse::testing
