// Schedules change no number: gradients of slices, chunks and recomputed parts against those of the plain pass.
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "hosts/trainer/run/mix.h"
#include "hosts/trainer/schedule/parse.h"
#include "tests/unit/trainer/tiny.h"

namespace tenon::trainer {
namespace {

using Gradients = std::map<std::string, std::vector<float>>;
using Adapters = std::vector<std::string>;

double distance(const Gradients& a, const Gradients& b) {
  double difference = 0, norm = 0;
  for (const auto& [name, g] : a)
    for (size_t i = 0; i < g.size(); ++i) difference += std::pow(g[i] - b.at(name)[i], 2), norm += std::pow(g[i], 2);
  return std::sqrt(difference / norm);
}

// Two sequences whose second begins with padding (no position of it is predicted), and a stretch in the first that is ignored.
HostBatch padded() {
  HostBatch b = tiny::input();
  for (int64_t r : {4, 5, 6, 7, 8, 14, 15, 16, 17}) b.labels[static_cast<size_t>(r)] = -1;
  return b;
}

// The same rows as documents of 5, 9, 1 and 13 tokens that do not see one another.
HostBatch packed() {
  HostBatch b = tiny::input();
  b.segments = {{0, 5, 14, 15}, {5, 9, 1, 13}};
  for (size_t s = 0; s < b.segments.begin.size(); ++s)
    for (int64_t i = 0; i < b.segments.length[s]; ++i) b.positions[static_cast<size_t>(b.segments.begin[s] + i)] = static_cast<int32_t>(i);
  return b;
}

struct Mix {
  const char *name, *model;
  Adapters adapters;
  const char* quantizer;
};

class Rows : public testing::TestWithParam<Mix> {
 protected:
  const tiny::Folder folder;
  tiny::Run run{tiny::model_folder(folder, GetParam().model), tiny::mix("adamw", GetParam().adapters, GetParam().quantizer), {}};
};

TEST_P(Rows, SlicesGiveThePlainGradient) {
  for (const HostBatch& batch : {tiny::input(), padded(), packed()}) {
    Gradients plain;
    const double loss = run.gradients(batch, {}, plain);
    for (const int64_t rows : {1, 3, 5, 7, 13, 14, 15, 27, 28, 100}) {
      MemoryOptions memory;
      memory.stream_rows = rows, memory.loss_tile_bytes = 320 * 4 * 5;
      Gradients sliced;
      EXPECT_NEAR(run.gradients(batch, memory, sliced), loss, 1e-6 * loss) << rows;
      EXPECT_LT(distance(plain, sliced), 1e-6) << rows;
    }
  }
}

TEST_P(Rows, ChunksGiveThePlainGradient) {
  for (const HostBatch& batch : {tiny::input(), padded(), packed()}) {
    Gradients plain;
    const double loss = run.gradients(batch, {}, plain);
    for (const int64_t rows : {1, 3, 5, 7, 13, 14, 15, 27, 28, 100}) {
      MemoryOptions memory;
      memory.chunk_rows = rows;
      Gradients chunked;
      EXPECT_NEAR(run.gradients(batch, memory, chunked), loss, 1e-6 * loss) << rows;
      EXPECT_LT(distance(plain, chunked), 1e-6) << rows;
    }
  }
}

TEST_P(Rows, EvaluationInSlicesIsTheSame) {
  std::vector<double> plain, sliced;
  run.session->model().evaluate(tiny::input(), &plain);
  MemoryOptions memory;
  memory.stream_rows = 5;
  run.session->model().evaluate(tiny::input(), &sliced, memory);
  for (size_t i = 0; i < plain.size(); ++i) EXPECT_NEAR(plain[i], sliced[i], 1e-5) << i;
}

// The last layers' policy, every-k, every union of what can be kept: the same kernels in the same order, so the same bits.
TEST_P(Rows, EveryPolicyOfRecomputationGivesTheSameBits) {
  Gradients plain;
  const double loss = run.gradients(tiny::input(), {}, plain);
  std::vector<std::string> policies{"flash-cut, none for block 1", "block, flash-cut for blocks 0-0, keep:mlp for block 1", "every-1", "every-2", "every-3", "every-9"};
  const char* const members[] = {"qkv", "attention", "middle", "mlp"};
  for (int set = 0; set < 16; ++set) {
    std::string list;
    for (int i = 0; i < 4; ++i)
      if (set >> i & 1) list += (list.empty() ? "keep:" : "+") + std::string(members[i]);
    policies.push_back(list.empty() ? "block" : list);
  }
  for (const std::string& policy : policies) {
    MemoryOptions memory;
    parse_checkpointing(policy, memory);
    Gradients again;
    EXPECT_EQ(run.gradients(tiny::input(), memory, again), loss) << policy;
    EXPECT_EQ(again, plain) << policy;
  }
}

TEST_P(Rows, SlicesOverEveryThirdBlockGiveThePlainGradient) {
  Gradients plain, sliced;
  run.gradients(tiny::input(), {}, plain);
  MemoryOptions memory;
  memory.stream_rows = 5, memory.every = 3;
  run.gradients(tiny::input(), memory, sliced);
  EXPECT_LT(distance(plain, sliced), 1e-6);
}

const std::string kAll = "lora:r=4,target_modules=all-linear,lora_dropout=0.2";
INSTANTIATE_TEST_SUITE_P(Mixes, Rows,
                         testing::Values(Mix{"full", "llama", {}, ""}, Mix{"window", "mistral", {}, ""}, Mix{"biases", "qwen2", {}, ""}, Mix{"head_norms", "qwen3", {}, ""},
                                         Mix{"every_head_its_keys", "llama2", {}, ""}, Mix{"dropout", "mistral", {kAll}, ""},
                                         Mix{"keys_and_values", "qwen3", {"lora:r=4,target_modules=k_proj+v_proj"}, ""},
                                         Mix{"two", "llama", {"lora:r=4,target_modules=all-linear", "lora:r=2,target_modules=k_proj+down_proj"}, ""},
                                         Mix{"dora", "llama", {"dora:r=4,target_modules=all-linear"}, ""}, Mix{"sublayers", "llama", {"compacter:reduction_factor=4"}, ""},
                                         Mix{"four_bits", "llama", {kAll}, "nf4"}),
                         [](const auto& info) { return std::string(info.param.name); });

SessionOptions in_a_file(const std::string& folder = TENON_BINARY_DIR) {
  SessionOptions o;
  o.sequence = 14, o.memory.offload = Offload::kAuto, o.memory.offload_keep_last = 0, o.offload_folder = folder;
  return o;
}

TEST_P(Rows, SavedActivationsComeBackFromAFileBitForBit) {
  tiny::Run away(tiny::model_folder(folder, GetParam().model), tiny::mix("adamw", GetParam().adapters, GetParam().quantizer), in_a_file());
  for (const char* policy : {"none", "block", "flash-cut", "every-2"}) {
    MemoryOptions memory;
    parse_checkpointing(policy, memory);
    memory.offload_keep_last = 0;
    Gradients here, there;
    EXPECT_EQ(run.gradients(tiny::input(), memory, here), away.gradients(tiny::input(), memory, there)) << policy;
    EXPECT_EQ(here, there) << policy;
  }
  EXPECT_GT(away.session->offloaded_bytes(), 0u);
}

TEST(Schedules, NeedWhatThePlanSays) {
  const tiny::Folder folder;
  const std::pair<const char*, std::function<void(SessionOptions&)>> schedules[] = {
      {"slices", [](SessionOptions& o) { o.memory.stream_rows = 5; }},
      {"slices over every second block", [](SessionOptions& o) { o.memory.stream_rows = 5, o.memory.every = 2; }},
      {"slices, fused", [](SessionOptions& o) { o.memory.stream_rows = 5, o.fused_backward = true; }},
      {"chunks", [](SessionOptions& o) { o.memory.chunk_rows = 5; }},
      {"chunks, fused", [](SessionOptions& o) { o.memory.chunk_rows = 5, o.fused_backward = true; }},
      {"every second block", [](SessionOptions& o) { o.memory.every = 2; }},
      {"a policy of one's own", [](SessionOptions& o) { parse_checkpointing("keep:qkv+mlp, block for block 1", o.memory); }}};
  for (const tn_dtype dtype : {kF32, kBF16})
    for (const auto& [name, set] : schedules) {
      SessionOptions options;
      options.sequence = 14, options.storage = dtype;
      set(options);
      tiny::Run run(tiny::model_folder(folder, "qwen3"), tiny::mix("adamw", {"lora:target_modules=all-linear"}), options, dtype);
      for (int64_t step = 1; step <= 2; ++step) run.session->step(step, 2, {tiny::input()}, 1e-3);
      EXPECT_EQ(plan_run(run.runtime, run.source, options, {2, 14, false}, dtype).total_peak, run.engine->memory().use().total_peak) << name;
    }
}

TEST(Schedules, InBf16AreTheirPlainPassWithinItsRounding) {
  const tiny::Folder folder;
  tiny::Run run(tiny::model_folder(folder, "qwen3"), tiny::mix("adamw", {"lora:target_modules=all-linear"}), {}, kBF16);
  Gradients plain;
  run.gradients(tiny::input(), {}, plain);
  for (const bool chunks : {false, true}) {
    MemoryOptions memory;
    (chunks ? memory.chunk_rows : memory.stream_rows) = 5;
    Gradients other;
    run.gradients(tiny::input(), memory, other);
    EXPECT_LT(distance(plain, other), 0.02);
  }
}

// The catalog knows who cannot be called by rows, before anything runs.
TEST(Schedules, AreRefusedToWhomTheyDoNotFit) {
  for (const char* feature : {"run:streambp", "run:seco"}) {
    for (const char* adapter : {"meft", "lst"}) {
      const MixAnswer a = check_mix(tiny::catalog(), {}, {tiny::catalog().spec(TN_KIND_ADAPTER, adapter), tiny::catalog().spec(TN_KIND_ATTENTION, "flash-attention")}, {feature});
      ASSERT_FALSE(a.possible) << feature << adapter;
      EXPECT_NE(a.reasons[0].sentence.find("so does this adapter"), std::string::npos) << a.reasons[0].sentence;
    }
    EXPECT_FALSE(check_mix(tiny::catalog(), resolve_optimizers(tiny::catalog(), "flashdp"), {}, {feature}).possible);
    EXPECT_TRUE(check_mix(tiny::catalog(), resolve_optimizers(tiny::catalog(), "adamw"), {tiny::catalog().spec(TN_KIND_ATTENTION, "flash-attention")}, {feature}).possible);
  }
  EXPECT_FALSE(check_mix(tiny::catalog(), resolve_optimizers(tiny::catalog(), "mezo"), {}, {"run:act-offload"}).possible);
  EXPECT_FALSE(check_mix(tiny::catalog(), resolve_optimizers(tiny::catalog(), "mkor"), {}, {"run:zero-offload"}).possible);
}

// SpaCO. With four chunks of which two are picked on average every subset of chunks is equally likely, so that the expected gradient is a plain mean.
struct Spaco : testing::Test {
  const tiny::Folder folder;
  tiny::Run run{tiny::model_folder(folder, "llama"), tiny::mix(), {}};
  MemoryOptions memory;
  std::map<std::vector<bool>, uint64_t> seeds;  // of each subset
  Gradients plain;

  void SetUp() override {
    memory.chunk_rows = 7, memory.chunks_picked = 2;
    for (uint64_t seed = 0; seeds.size() < 16 && seed < 2000; ++seed) {
      LinearCall call;
      call.step = 1, call.seed = seed;
      const ChunkPicks p = pick_chunks(memory, 28, call);
      EXPECT_EQ(p.weight, 2);
      seeds.emplace(p.picked, seed);
    }
    ASSERT_EQ(seeds.size(), 16u);
    run.gradients(one_sequence(), {}, plain);
  }
  // Chunks depend on one another within a sequence, so the 28 rows are one.
  static HostBatch one_sequence() {
    HostBatch b = tiny::input();
    b.sequences = 1, b.length = 28;
    for (int32_t r = 0; r < 28; ++r) b.positions[static_cast<size_t>(r)] = r;
    return b;
  }
  Gradients mean_over(const std::function<bool(const std::vector<bool>&)>& taken) {
    Gradients mean;
    size_t n = 0;
    for (const auto& [subset, seed] : seeds) {
      if (!taken(subset)) continue;
      ++n;
      Gradients g;
      run.gradients(one_sequence(), memory, g, seed);
      for (const auto& [name, values] : g) {
        std::vector<float>& sum = mean.try_emplace(name, values.size()).first->second;
        for (size_t i = 0; i < values.size(); ++i) sum[i] += values[i];
      }
    }
    for (auto& [name, values] : mean)
      for (float& v : values) v /= static_cast<float>(n);
    return mean;
  }
};

TEST_F(Spaco, IndependentPicksAreUnbiased) { EXPECT_LT(distance(plain, mean_over([](const auto&) { return true; })), 1e-5); }

TEST_F(Spaco, DrawsOfAFixedNumberWouldNotBe) {
  const Gradients two = mean_over([](const std::vector<bool>& s) { return std::count(s.begin(), s.end(), true) == 2; });
  EXPECT_GT(distance(plain, two), 1e-3);
}

TEST_F(Spaco, LossIsThatOfTheWholeBatchWhateverIsPicked) {
  Gradients g;
  const double loss = run.gradients(one_sequence(), {}, g);
  for (const auto& [subset, seed] : seeds) EXPECT_NEAR(run.gradients(one_sequence(), memory, g, seed), loss, 1e-6 * loss);
}

TEST_F(Spaco, AllPickedIsSeco) {
  memory.chunks_picked = 4;
  Gradients all;
  run.gradients(one_sequence(), memory, all);
  EXPECT_LT(distance(plain, all), 1e-6);
  memory.chunks_picked = 2, memory.spaco_clip = 1.5;
  EXPECT_EQ(pick_chunks(memory, 28, {}).weight, 1.5);
}

TEST(OffloadToAFile, IsWhatThePlanSays) {
  const tiny::Folder folder;
  for (const char* policy : {"none", "block"}) {
    SessionOptions options = in_a_file();
    parse_checkpointing(policy, options.memory);
    tiny::Run run(tiny::model_folder(folder, "llama"), tiny::mix(), options);
    const RunMemory planned = plan_run(run.runtime, run.source, options, {2, 14, false}, kF32);
    for (int64_t step = 1; step <= 2; ++step) run.session->step(step, 2, {tiny::input()}, 1e-3);
    EXPECT_EQ(planned.offloaded, run.session->offloaded_bytes()) << policy;
    EXPECT_EQ(planned.total_peak, run.engine->memory().use().total_peak) << policy;
    // Inputs of two blocks, 28 rows of 32 numbers each, in pages of 4096 bytes.
    if (std::string(policy) == "block") {
      EXPECT_EQ(planned.offloaded, 2 * 4096u);
    }
  }
}

TEST(OffloadToAFile, RefusesWhatWouldGainNothing) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  const auto refused = [&](const SessionOptions& options, const std::string& words) {
    try {
      tiny::Run run(model, tiny::mix(), options);
      FAIL() << words;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(words), std::string::npos) << e.what();
    }
  };
  refused(in_a_file("/dev/shm"), "file system in memory");
  refused(in_a_file(folder / "not-there"), "choose a folder that you may write");
  SessionOptions host = in_a_file();
  host.memory.offload = Offload::kHost;
  refused(host, "pass --act-offload file");
}

TEST(Options, AreReadAndRefusedInWords) {
  MemoryOptions m;
  parse_checkpointing("keep:attention+mlp, none for blocks 24-29, block for block 3", m);
  EXPECT_EQ(m.policy_of(0), Checkpointing::kFlashCut | Checkpointing::kMlp);
  EXPECT_EQ(m.policy_of(24), Checkpointing::kNone);
  EXPECT_EQ(m.policy_of(29), Checkpointing::kNone);
  EXPECT_EQ(m.policy_of(3), Checkpointing::kBlock);
  const auto refused = [](const std::string& text, const std::string& words) {
    MemoryOptions o;
    try {
      parse_checkpointing(text, o);
      FAIL() << text;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(words), std::string::npos) << e.what();
    }
  };
  refused("sometimes", "not one of none, block, flash-cut, every-K, keep:LIST");
  refused("keep:qkv+q", "not a list of qkv, attention, middle, mlp");
  refused("every-0", "every-1 or more");
  refused("every-x", "number");
  refused("block, none", "followed by the blocks");
  refused("block, none for blocks 5-2", "begins before it ends");
  refused("every-4, none for block 1", "drop one of the two");
  const auto clashes = [](MemoryOptions o, bool checkpointing, const std::string& words) {
    try {
      check_memory_options(o, checkpointing);
      FAIL() << words;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(words), std::string::npos) << e.what();
    }
  };
  MemoryOptions both;
  both.stream_rows = both.chunk_rows = 4;
  clashes(both, false, "choose one");
  MemoryOptions stream;
  stream.stream_rows = 4, stream.checkpointing = Checkpointing::kFlashCut;
  clashes(stream, true, "block or every-K");
  stream.checkpointing = Checkpointing::kBlock;
  EXPECT_NO_THROW(check_memory_options(stream, true));
  MemoryOptions chunks;
  chunks.chunk_rows = 4;
  clashes(chunks, true, "drop --grad-checkpoint");
  chunks.offload = Offload::kFile;
  clashes(chunks, false, "drop --act-offload");
  MemoryOptions picks;
  picks.chunks_picked = 2;
  clashes(picks, false, "--seco ROWS");
}

}  // namespace
}  // namespace tenon::trainer
