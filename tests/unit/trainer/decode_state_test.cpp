// Attention plugins with decode states of every kind in the host: tokens one by one give the losses of a whole pass,
// the state is accounted as the forecast says, and a written model names its attention.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/json.h"
#include "hosts/trainer/run/export.h"
#include "hosts/trainer/run/generate.h"
#include "tests/unit/trainer/tiny.h"

namespace tenon::trainer {
namespace {

constexpr int64_t kTokens = 120;
const char* const kSpecs[] = {"flash-attention",
                              "block-sparse-flash:block=16,sink_blocks=0,pattern=band,local_blocks=2",
                              "s2-attention:block=16,local_blocks=2,vert_stride=2",
                              "s2-attention:block=16,local_blocks=1,vert_stride=3,num_dense_heads=1",
                              "lightning-attention",
                              "lightning-attention:decay=none,chunk=16"};

class DecodeState : public ::testing::TestWithParam<const char*> {
 protected:
  static MixRequest request() {
    MixRequest r = tiny::mix();
    r.attention = GetParam();
    return r;
  }
  static HostBatch batch() {
    HostBatch b;
    b.sequences = 1, b.length = kTokens;
    for (int64_t t = 0; t < kTokens; ++t) {
      b.ids.push_back(static_cast<int32_t>((t * 37 + t * t * 11) % 96)), b.positions.push_back(static_cast<int32_t>(t));
      b.labels.push_back(static_cast<int32_t>(((t + 1) * 37 + (t + 1) * (t + 1) * 11) % 96));
    }
    return b;
  }
  tiny::Folder folder_;
  std::string model_ = tiny::model_folder(folder_, "llama");
};

TEST_P(DecodeState, FedInPiecesIsAWholePass) {
  tiny::Run run(model_, request(), {});
  Model& model = run.session->model();
  const HostBatch b = batch();
  std::vector<double> losses;
  model.evaluate(b, &losses);
  for (const int64_t prompt : {1, 50}) {
    model.start_cache(kTokens);
    for (int64_t at = 0, n = prompt; at < kTokens; at += n, n = at % 7 == 0 ? std::min<int64_t>(3, kTokens - at) : 1) {
      const std::vector<float> logits = model.feed({b.ids.begin() + at, b.ids.begin() + at + n});
      double sum = 0;
      for (const float l : logits) sum += std::exp(static_cast<double>(l));
      ASSERT_NEAR(std::log(sum) - logits[b.labels[at + n - 1]], losses[at + n - 1], 2e-4)
          << "position " << at << " after a prompt of " << prompt;
    }
    EXPECT_THROW(model.feed({1}), Error);  // the state is full
    model.end_cache();
  }
}

TEST_P(DecodeState, IsAccountedAsForeseen) {
  uint64_t peak[2];
  for (const bool dry : {false, true}) {
    Runtime runtime(tiny::catalog(), request());
    const ModelSource source = ModelSource::open(model_, 320);
    const auto engine = runtime.engine(kF32, 0, dry);
    const auto set = runtime.instantiate();
    SessionOptions options;
    options.sequence = kTokens, options.train = false;
    Session session(*engine, source, set->techniques, options);
    session.model().start_cache(kTokens);
    for (int64_t n : {30, 1}) session.model().feed(std::vector<int32_t>(static_cast<size_t>(n), 3));
    peak[dry] = engine->memory().use().total_peak;
  }
  EXPECT_EQ(peak[0], peak[1]);
}

TEST_P(DecodeState, AModelKeepsItsAttention) {
  tiny::Run run(model_, request(), {});
  const std::string to = folder_ / "out", again = folder_ / "again";
  std::filesystem::create_directories(to), std::filesystem::create_directories(again);
  write_model(to, *run.session, run.source, kF32, false);
  const std::string spec = run.set->techniques.attention_spec;
  EXPECT_EQ(spec.empty(), std::string(GetParam()) == kDefaultAttention);
  EXPECT_EQ(stored_attention(to), spec.empty() ? kDefaultAttention : spec);
  EXPECT_EQ(ModelSource::open(to, 0).config().attention, spec);
  EXPECT_EQ(canonical(tiny::catalog().spec(TN_KIND_ATTENTION, stored_attention(to))),
            canonical(tiny::catalog().spec(TN_KIND_ATTENTION, GetParam())));
  // Another run's choice replaces it.
  tiny::Run exact(to, tiny::mix(), {});
  write_model(again, *exact.session, exact.source, kF32, false);
  EXPECT_FALSE(read_json_file(again + "/config.json").contains(kAttentionKey));
}

// Of the three ways to keep few candidates, each narrowed to one leaves the likeliest; none narrows what it should keep.
TEST(Generation, SamplesFromWhatItKeeps) {
  const tiny::Folder folder;
  tiny::Run run(tiny::model_folder(folder, "llama"), tiny::mix(), {.sequence = 64});
  Model& model = run.session->model();
  const auto answer = [&](SamplingOptions o) {
    o.max_new_tokens = 24;
    return generate(model, {3, 14, 15}, o);
  };
  const std::vector<int32_t> likeliest = answer({.temperature = 0});
  ASSERT_EQ(likeliest.size(), 24u);
  EXPECT_EQ(answer({.temperature = 1, .top_k = 1}), likeliest);
  EXPECT_EQ(answer({.temperature = 1, .top_p = 1e-9}), likeliest);
  EXPECT_EQ(answer({.temperature = 1e-4, .seed = 5}), likeliest);
  const std::vector<int32_t> any = answer({.temperature = 2, .seed = 5});
  EXPECT_NE(any, likeliest);
  EXPECT_EQ(answer({.temperature = 2, .seed = 5}), any);
  EXPECT_NE(answer({.temperature = 2, .seed = 6}), any);
  EXPECT_EQ(answer({.temperature = 2, .top_k = 1000, .seed = 5}), any);
  // A mass of nearly all keeps nearly all: the order is another, so the draw may be, but not that every draw is the first.
  EXPECT_NE(answer({.temperature = 2, .top_p = 0.999, .seed = 5}), likeliest);
}

INSTANTIATE_TEST_SUITE_P(Attention, DecodeState, ::testing::ValuesIn(kSpecs), [](const auto& info) {
  std::string name = std::to_string(info.index) + "_" + info.param;
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
});

}  // namespace
}  // namespace tenon::trainer
