// The child process that looks at foreign objects, the CPU question, and sealing, which uses both.
#include "core/plugins/probe.h"

#include <gtest/gtest.h>

#include "core/plugins/cpu.h"
#include "core/plugins/elf.h"
#include "core/plugins/seal.h"
#include "plugin_folder.h"

namespace tenon {
namespace {

using testing::author_plugin;
using testing::fixture;
using testing::Folder;
using testing::has;
using testing::sentence_of;
using testing::write_text;
namespace fs = std::filesystem;

TEST(Probe, DescribesASoundObject) {
  const Probe probe = probe_object(fixture("sound"));
  ASSERT_EQ(probe.outcome, Probe::Outcome::kSound) << probe.sentence;
  EXPECT_EQ(probe.description.id, "fixture");
  EXPECT_EQ(probe.description.version, "1.0.0");
  EXPECT_EQ(probe.description.backend, "onednn");
  EXPECT_EQ(probe.description.hypers.size(), 4u);
  EXPECT_EQ(probe.description.tags, std::vector<std::string>{"optimizer:one-at-a-time"});
}

TEST(Probe, SurvivesWhateverAPluginDoes) {
  const std::pair<const char*, const char*> kCases[] = {
      {"crashes", "crashed (Segmentation fault)"},
      {"crashes_in_create", "crashed (Segmentation fault)"},
      {"exits", "ended the process that tried it (exit status 0)"},
      {"talks", "ended the process that tried it (exit status 0)"},
      {"null_slot", "required function 'apply'"},
      {"no_export", "does not export"},
      {"refuses", "this plugin needs ABI 3.2"},
  };
  for (const auto& [name, part] : kCases) {
    const Probe probe = probe_object(fixture(name));
    EXPECT_EQ(probe.outcome, Probe::Outcome::kBroken) << name;
    EXPECT_TRUE(has(probe.sentence, part));
    EXPECT_TRUE(probe.sentence.starts_with(fixture(name))) << probe.sentence;
  }
}

TEST(Probe, StopsAPluginThatHangs) {
  const Probe probe = probe_object(fixture("hangs"), std::chrono::milliseconds(300));
  EXPECT_EQ(probe.outcome, Probe::Outcome::kBroken);
  EXPECT_TRUE(has(probe.sentence, "did not answer within 300 ms and was stopped"));
}

TEST(Probe, StopsAPluginThatLeavesAProcessBehind) {
  // The process that it started holds the pipe open, so the answer never ends.
  const Probe probe = probe_object(fixture("lingers"), std::chrono::milliseconds(500));
  EXPECT_EQ(probe.outcome, Probe::Outcome::kBroken);
}

TEST(Probe, AMissingDriverIsNotTheObjectsFault) {
  EXPECT_EQ(probe_object(fixture("no_device")).outcome, Probe::Outcome::kNotForHere);
  EXPECT_EQ(probe_object(fixture("needs_library")).outcome, Probe::Outcome::kNotForHere);
}

TEST(Cpu, TheCapHidesWhatIsAboveIt) {
  ASSERT_EQ(unsetenv("TENON_CPU"), 0);
  EXPECT_EQ(missing_cpu_features({"warp-drive"}), std::vector<std::string>{"warp-drive"});
  EXPECT_TRUE(missing_cpu_features({}).empty());
  const std::vector<std::string> v3 = cpu_level_features("x86-64-v3"), v4 = cpu_level_features("x86-64-v4");
  EXPECT_TRUE(cpu_level_features("x86-64-v9").empty());
  if (host_arch() == "x86_64") {
    EXPECT_EQ(v4, (std::vector<std::string>{"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}));
    setenv("TENON_CPU", "x86-64-v3", 1);
    EXPECT_EQ(missing_cpu_features(v4), v4);
    setenv("TENON_CPU", "x86-64", 1);
    EXPECT_EQ(missing_cpu_features(v3), v3);
  }
  setenv("TENON_CPU", "pentium", 1);
  EXPECT_TRUE(has(sentence_of([] { (void)missing_cpu_features({"avx2"}); }), "TENON_CPU is 'pentium'"));
  unsetenv("TENON_CPU");
}

TEST(Seal, FillsInWhatTheObjectsSay) {
  Folder folder;
  author_plugin(folder / "p");
  fs::copy_file(fixture("sound"), folder / "p" / "fixture.onednn.x86-64-v3.so");
  fs::copy_file(fixture("sound"), folder / "p" / "unrelated.so");
  const Manifest sealed = seal(folder / "p");
  EXPECT_EQ(sealed.version, "1.0.0");
  ASSERT_EQ(sealed.objects.size(), 2u);
  EXPECT_EQ(sealed.objects[0].file, "fixture.onednn.x86-64-v3.so") << "the better object is first";
  EXPECT_FALSE(sealed.objects[0].cpu.empty());
  EXPECT_EQ(sealed.objects[1].sha256.size(), 64u);
  const Manifest read = read_manifest(folder / "p");
  EXPECT_EQ(read.hypers.size(), 4u);
  EXPECT_EQ(read.provides, std::vector<std::string>{"optimizer:one-at-a-time"});
  EXPECT_EQ(manifest_text(seal(folder / "p")), manifest_text(sealed)) << "sealing twice changes nothing";
}

TEST(Seal, RefusesWhatDoesNotAgree) {
  Folder folder;
  const auto refusal = [&](const std::string& object, const std::string& more = "") {
    fs::remove_all(folder / "p");
    author_plugin(folder / "p", object, more);
    const std::string before = testing::read_text(folder / "p" / "manifest.json");
    const std::string sentence = sentence_of([&] { seal(folder / "p"); });
    EXPECT_EQ(testing::read_text(folder / "p" / "manifest.json"), before) << "a refused manifest is left as it was";
    return sentence;
  };
  EXPECT_TRUE(has(refusal("lies_about_id"), "the object says its id is somebody-else but the manifest says fixture"));
  EXPECT_TRUE(has(refusal("sound", R"(, "version": "2.0.0")"),
                  "the object says its version is 1.0.0 but the manifest says 2.0.0"));
  EXPECT_TRUE(has(refusal("crashes"), "crashed (Segmentation fault)"));
  EXPECT_TRUE(has(refusal("no_device"), "none of the plugin's objects can run on this machine"));
  EXPECT_TRUE(has(refusal("sound", R"(, "objects": [{"backend": "onednn", "file": "gone.so"}])"), "gone.so"));
  fs::remove(folder / "p" / "fixture.onednn.so");
  write_text(folder / "p" / "manifest.json", R"({"manifest": 1, "id": "fixture", "kind": "optimizer"})");
  EXPECT_TRUE(
      has(sentence_of([&] { seal(folder / "p"); }), "there is no object of fixture here; name it fixture.BACKEND.so"));
}

}  // namespace
}  // namespace tenon
