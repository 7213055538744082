// The battery finds what is wrong with each exhibit of the gallery, and nothing with the sound ones.
#include <gtest/gtest.h>

#include "hosts/conformance/conformance.h"

namespace tenon::conformance {
namespace {

using Outcome = CheckResult::Outcome;

Target exhibit(const std::string& name) {
  return {TENON_GALLERY "/" + name + ".so", TENON_DEVICE_OBJECT};
}

struct Exhibit {
  const char *name, *check, *says;
};

class Gallery : public ::testing::TestWithParam<Exhibit> {};

TEST_P(Gallery, IsCaughtByTheCheckThatIsMeantForIt) {
  Options options;
  options.timeout = std::chrono::seconds(GetParam().name == std::string("hangs") ? 5 : 120);
  options.only = {GetParam().check};
  const auto results = run_battery(exhibit(GetParam().name), options);
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results[0].name, GetParam().check);
  EXPECT_EQ(results[0].outcome, Outcome::kFailed);
  EXPECT_NE(results[0].reason.find(GetParam().says), std::string::npos) << results[0].reason;
  EXPECT_FALSE(conforms(results));
}

INSTANTIATE_TEST_SUITE_P(
    Broken, Gallery,
    ::testing::Values(Exhibit{"writes_past_state", "memory", "past the end of state momentum"},
                      Exhibit{"changes_gradient", "memory", "changed the gradient"},
                      Exhibit{"lies_about_workspace", "memory", "past the end of the workspace"},
                      Exhibit{"lies_about_state", "accounting", "bytes of state"},
                      Exhibit{"not_deterministic", "determinism", "two equal runs"},
                      Exhibit{"reads_workspace", "determinism", "workspace held"},
                      Exhibit{"keeps_pointers", "borrowing", "a pointer was kept"},
                      Exhibit{"forgets", "state round trip", "resumed run"}, Exhibit{"prints", "silence", "one step"},
                      Exhibit{"throws", "updates", "not today"}, Exhibit{"hangs", "zero gradient", "5 seconds"},
                      Exhibit{"crashes", "odd shapes", "the plugin"}, Exhibit{"exits", "create", "exit status 3"},
                      Exhibit{"ignores_grad_scale", "gradient scale", "grad_scale"},
                      Exhibit{"does_not_learn", "convergence", "150 steps"},
                      Exhibit{"refuses_silently", "supports", "without a sentence"},
                      Exhibit{"accepts_any_version", "negotiation", "major version"},
                      Exhibit{"accepts_any_version", "exports", "tn_plugin_entry_too"},
                      Exhibit{"allocates", "memory", "by itself"},
                      Exhibit{"shares_between_threads", "threads", "several threads"},
                      Exhibit{"writes_past_estimate", "struct sizes", "past the end of tn_estimate"},
                      Exhibit{"codec_changes_source", "round trip", "source"},
                      Exhibit{"codec_takes_nan", "non-finite", "NaN"},
                      Exhibit{"attention_ignores_strides", "forward", "dense evaluation"},
                      Exhibit{"attention_ignores_mask", "forward", "causal"},
                      Exhibit{"attention_overwrites", "accumulation", "TN_BIND_ACCUMULATE"},
                      Exhibit{"adapter_wrong_gradient", "gradients", "dx"},
                      Exhibit{"mixer_wrong_gradient", "mixer: gradients", "the gradient of mix.weight"},
                      Exhibit{"mixer_wrong_dx", "mixer: gradients", "dx with the defaults is"},
                      Exhibit{"adapter_draws_anew", "recompute", "recomputing"},
                      Exhibit{"region_draws_anew", "region: gradients", "dx with the defaults is"},
                      Exhibit{"region_changes_input", "region: gradients", "changes the input of a block"},
                      Exhibit{"region_frees_twice", "region: gradients", "frees a tensor that it does not hold"},
                      Exhibit{"mixer_frees_kept", "mixer: gradients", "frees a tensor that it does not hold"},
                      Exhibit{"region_forecasts_less", "region: forecast", "other tensors"},
                      Exhibit{"codec_short_components", "sizes", "past the end of component codes"},
                      Exhibit{"codec_moves_zero", "zeros", "zero"},
                      Exhibit{"codec_aligned_ranges", "ranges", "slice of the whole"}),
    [](const auto& info) {
      return std::string(info.param.name) + (info.param.check == std::string("exports") ? "_exports" : "");
    });

#ifndef __SANITIZE_ADDRESS__  // its allocator does not count
INSTANTIATE_TEST_SUITE_P(Leaking, Gallery, ::testing::Values(Exhibit{"leaks", "leaks", "never freed"}),
                         [](const auto& info) { return std::string(info.param.name); });
#endif

class Sound : public ::testing::TestWithParam<const char*> {};

TEST_P(Sound, ConformsInEveryCheck) {
  const auto results = run_battery(exhibit(GetParam()));
  EXPECT_GT(results.size(), 15u);
  for (const CheckResult& r : results) EXPECT_NE(r.outcome, Outcome::kFailed) << r.name << ": " << r.reason;
  EXPECT_TRUE(conforms(results));
}
INSTANTIATE_TEST_SUITE_P(Gallery, Sound, ::testing::Values("sound", "codec_sound", "mixer_sound", "region_sound"));

TEST(Battery, TellsOfAnObjectThatDoesNotLoad) {
  const auto results = run_battery({TENON_SOURCE_DIR "/CMakeLists.txt", TENON_DEVICE_OBJECT});
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results[0].name, "load");
  EXPECT_EQ(results[0].outcome, Outcome::kFailed);
  EXPECT_NE(results[0].reason.find("CMakeLists.txt"), std::string::npos) << results[0].reason;
}

TEST(Battery, RunsOnlyTheChecksThatAreNamed) {
  Options options;
  options.only = {"exports", "convergence"};
  const auto results = run_battery(exhibit("sound"), options);
  ASSERT_EQ(results.size(), 2u);
  EXPECT_EQ(results[0].name, "exports");
  EXPECT_EQ(results[1].name, "convergence");
}

}  // namespace
}  // namespace tenon::conformance
