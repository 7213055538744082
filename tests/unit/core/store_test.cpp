// Installing, removing, verifying and rescanning a store, alone and with other processes at work.
#include "core/catalog/store.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "core/catalog/catalog.h"
#include "core/plugins/sha256.h"
#include "plugin_folder.h"

namespace tenon {
namespace {

using testing::Folder;
using testing::has;
using testing::read_text;
using testing::sealed_plugin;
using testing::sentence_of;
using testing::write_text;
namespace fs = std::filesystem;

class StoreTest : public ::testing::Test {
 protected:
  Folder folder_;
  Store store_{folder_ / "store"};

  std::string installed_object() { return folder_ / "store/plugins/fixture/1.0.0/fixture.onednn.so"; }
  std::vector<std::string> ids() {
    std::vector<std::string> out;
    for (const PluginRow& row : Catalog({store_.path()}).list()) out.push_back(row.id);
    return out;
  }
  // Whatever is not a plugin's file or the catalog's.
  int strangers() {
    int n = 0;
    for (const auto& entry : fs::recursive_directory_iterator(store_.path())) {
      const std::string name = entry.path().filename();
      n += name.find("tmp") != std::string::npos;
    }
    return n;
  }
};

TEST_F(StoreTest, InstallsListsAndRemoves) {
  const InstallReport report = store_.install(sealed_plugin(folder_ / "p"));
  EXPECT_EQ(report.manifest.version, "1.0.0");
  EXPECT_EQ(report.replaced, "");
  EXPECT_TRUE(report.changed);
  const Catalog catalog({store_.path()});
  const std::vector<PluginRow> rows = catalog.list();
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].backends, std::vector<std::string>{"onednn"});
  EXPECT_EQ(rows[0].kind, static_cast<uint32_t>(TN_KIND_OPTIMIZER));
  EXPECT_EQ(catalog.load("fixture", "onednn").id(), "fixture");
  EXPECT_EQ(strangers(), 0);
  store_.remove("fixture");
  EXPECT_TRUE(catalog.list().empty()) << "an open catalog sees what happens";
  EXPECT_FALSE(fs::exists(installed_object()));
  EXPECT_TRUE(has(sentence_of([&] { store_.remove("fixture"); }), "fixture is not installed in " + store_.path()));
}

TEST_F(StoreTest, NothingIsMadeBeforeItIsNeeded) {
  EXPECT_TRUE(ids().empty());
  EXPECT_TRUE(store_.verify().empty());
  EXPECT_EQ(store_.rescan().plugins, 0u);
  EXPECT_THROW(store_.remove("fixture"), Error);
  EXPECT_THROW(store_.install(folder_.str()), Error);
  EXPECT_FALSE(fs::exists(store_.path()));
}

TEST_F(StoreTest, TheSameAgainChangesNothing) {
  sealed_plugin(folder_ / "p");
  store_.install(folder_ / "p");
  EXPECT_FALSE(store_.install(folder_ / "p").changed);
}

TEST_F(StoreTest, ANewerVersionReplacesAndAnOlderIsRefused) {
  store_.install(sealed_plugin(folder_ / "old"));
  EXPECT_EQ(store_.install(sealed_plugin(folder_ / "new", "sound_again")).replaced, "1.0.0");
  EXPECT_FALSE(fs::exists(installed_object()));
  EXPECT_EQ(Catalog({store_.path()}).info("fixture").version, "1.1.0");
  EXPECT_TRUE(has(sentence_of([&] { store_.install(folder_ / "old"); }),
                  "fixture 1.1.0 is installed in " + store_.path() + " and is newer than 1.0.0"));
  EXPECT_EQ(store_.install(folder_ / "old", {.allow_older = true}).replaced, "1.1.0");
  EXPECT_EQ(Catalog({store_.path()}).info("fixture").version, "1.0.0");
}

TEST_F(StoreTest, AnotherBuildOfTheSameVersionReplaces) {
  store_.install(sealed_plugin(folder_ / "p"));
  const InstallReport report = store_.install(sealed_plugin(folder_ / "q", "newer_table"));
  EXPECT_EQ(report.replaced, "1.0.0");
  EXPECT_TRUE(report.changed);
  EXPECT_TRUE(store_.verify().empty());
  EXPECT_EQ(read_text(installed_object()), read_text(testing::fixture("newer_table")));
}

// The manifest of a sound plugin around an object that is something else, with the right digest.
std::string forged(const fs::path& folder, const std::string& object) {
  sealed_plugin(folder);
  Manifest manifest = read_manifest(folder);
  fs::copy_file(testing::fixture(object), folder / "fixture.onednn.so", fs::copy_options::overwrite_existing);
  manifest.objects[0].sha256 = sha256_of_file(folder / "fixture.onednn.so");
  write_text(folder / "manifest.json", manifest_text(manifest));
  return folder;
}

TEST_F(StoreTest, BrokenPluginsLeaveNothingBehind) {
  const std::pair<const char*, const char*> kCases[] = {
      {"no_export", "does not export tn_plugin_entry, so it is not a Tenon plugin; it was not installed"},
      {"wrong_major", "answers ABI 7.9"},
      {"crashes", "crashed (Segmentation fault) when it was tried in a child process; it was not installed"},
      {"hangs", "did not answer within 500 ms and was stopped; it was not installed"},
      {"exits", "ended the process"},
      {"null_slot", "'apply'"},
      {"lies_about_id", "the object says its id is somebody-else"},
      {"sound_again", "the object says its version is 1.1.0 but the manifest says 1.0.0"},
      {"no_device", "none of the objects of fixture can run on this machine"},
  };
  for (const auto& [object, part] : kCases) {
    forged(folder_ / "p", object);
    const std::string sentence =
        sentence_of([&] { store_.install(folder_ / "p", {.timeout = std::chrono::milliseconds(500)}); });
    EXPECT_TRUE(has(sentence, part));
    EXPECT_FALSE(fs::exists(store_.path())) << object;
  }
}

TEST_F(StoreTest, AlteredSourcesAreRefused) {
  sealed_plugin(folder_ / "p");
  std::ofstream(folder_ / "p" / "fixture.onednn.so", std::ios::app) << "x";
  EXPECT_TRUE(has(sentence_of([&] { store_.install(folder_ / "p"); }), "its SHA-256 differs from the manifest's"));
  fs::remove(folder_ / "p" / "fixture.onednn.so");
  EXPECT_TRUE(has(sentence_of([&] { store_.install(folder_ / "p"); }), "in the manifest but not in the folder"));
}

TEST_F(StoreTest, AnotherAbiIsRefusedFromTheManifest) {
  sealed_plugin(folder_ / "p");
  Manifest manifest = read_manifest(folder_ / "p");
  manifest.abi_minor = 99;
  write_text(folder_ / "p" / "manifest.json", manifest_text(manifest));
  EXPECT_TRUE(has(sentence_of([&] { store_.install(folder_ / "p"); }),
                  "fixture 1.0.0 speaks ABI 0.99 but this Tenon offers 0.9"));
}

TEST_F(StoreTest, AStoreThatCannotBeWrittenIsNamed) {
  sealed_plugin(folder_ / "p");
  write_text(folder_ / "file", "");
  const std::string sentence = sentence_of([&] { Store(folder_ / "file" / "store").install(folder_ / "p"); });
  EXPECT_TRUE(has(sentence, (folder_ / "file" / "store").string() + ": the store cannot be written"));
  EXPECT_TRUE(has(sentence_of([&] { Store("/proc/tenon").install(folder_ / "p"); }),
                  "/proc/tenon: the store cannot be written"));
}

TEST_F(StoreTest, VerifyNamesAlteredAndMissingObjects) {
  store_.install(sealed_plugin(folder_ / "p"));
  store_.install(sealed_plugin(folder_ / "q", "sound_other", "", "other"));
  uint64_t count = 0;
  EXPECT_TRUE(store_.verify(&count).empty());
  EXPECT_EQ(count, 2u);
  std::ofstream(installed_object(), std::ios::app) << "x";
  fs::remove(folder_ / "store/plugins/other/1.0.0/other.onednn.so");
  const std::vector<VerifyFinding> findings = store_.verify();
  ASSERT_EQ(findings.size(), 2u);
  EXPECT_TRUE(has(findings[0].problem, "differs from what was installed"));
  EXPECT_EQ(findings[1].id, "other");
  EXPECT_TRUE(has(findings[1].problem, "is missing"));
}

TEST_F(StoreTest, ALostCatalogIsNamedAndRebuilt) {
  store_.install(sealed_plugin(folder_ / "p"));
  fs::remove(store_.catalog_path());
  for (const auto& action : std::initializer_list<std::function<void()>>{
           [&] { ids(); }, [&] { store_.install(folder_ / "p"); }, [&] { store_.remove("fixture"); },
           [&] { (void)store_.verify(); }}) {
    EXPECT_TRUE(has(sentence_of(action), "rebuild it with `tenon plugin rescan`"));
  }
  EXPECT_EQ(store_.rescan().plugins, 1u);
  EXPECT_EQ(Catalog({store_.path()}).load("fixture", "onednn").id(), "fixture");
}

TEST_F(StoreTest, ADamagedCatalogIsNamedAndRebuilt) {
  store_.install(sealed_plugin(folder_ / "p"));
  const std::string good = read_text(store_.catalog_path());
  const std::pair<const char*, std::string> kDamage[] = {
      {"text", "this is not a database at all, just some text of a fair length"},
      {"empty", ""},
      {"half", good.substr(0, good.size() / 2)},
      {"zeros", good.substr(0, 100) + std::string(good.size() - 100, '\0')},
  };
  for (const auto& [name, bytes] : kDamage) {
    write_text(store_.catalog_path(), bytes);
    const std::string sentence = sentence_of([&] {
      const Catalog catalog({store_.path()});
      (void)catalog.list();
      (void)catalog.info("fixture");
    });
    EXPECT_TRUE(has(sentence, "tenon plugin rescan")) << name;
    EXPECT_EQ(store_.rescan().plugins, 1u) << name;
    EXPECT_EQ(ids(), std::vector<std::string>{"fixture"}) << name;
  }
}

TEST_F(StoreTest, RescanLeavesOutWhatIsNotSound) {
  store_.install(sealed_plugin(folder_ / "p"));
  store_.install(sealed_plugin(folder_ / "q", "sound_other", "", "other"));
  std::ofstream(installed_object(), std::ios::app) << "x";
  write_text(folder_ / "store/plugins/junk/1.0.0/manifest.json", "{");
  write_text(folder_ / "store/plugins/notes.txt", "hello");
  fs::create_directories(folder_ / "store/plugins/elsewhere");
  fs::copy(folder_ / "q", folder_ / "store/plugins/elsewhere/1.0.0", fs::copy_options::recursive);
  const RescanReport report = store_.rescan();
  EXPECT_EQ(report.plugins, 1u);
  EXPECT_EQ(report.problems.size(), 3u);
  EXPECT_EQ(ids(), std::vector<std::string>{"other"});
}

TEST_F(StoreTest, ACatalogOfTheFutureIsLeftAlone) {
  store_.install(sealed_plugin(folder_ / "p"));
  std::string bytes = read_text(store_.catalog_path());
  bytes[63] = 9;  // user_version, big-endian at 60
  write_text(store_.catalog_path(), bytes);
  EXPECT_TRUE(has(sentence_of([&] { ids(); }),
                  "written by a newer Tenon (its format is 9 and this one knows 1); update Tenon"));
  EXPECT_TRUE(has(sentence_of([&] { store_.rescan(); }), "newer Tenon"));
}

// Eight processes at once, half of which install one plugin in two versions and half another.
TEST_F(StoreTest, ConcurrentInstallersAreSafe) {
  sealed_plugin(folder_ / "a");
  sealed_plugin(folder_ / "b", "sound_again");
  sealed_plugin(folder_ / "c", "sound_other", "", "other");
  std::vector<pid_t> children;
  for (int i = 0; i < 8; ++i) {
    const pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      int bad = 0;
      for (int round = 0; round < 5; ++round) {
        try {
          const char* const name = i % 2 ? "c" : (i + round) % 4 ? "a" : "b";
          Store(store_.path()).install(folder_ / name, {.allow_older = true});
          (void)Catalog({store_.path()}).load("fixture", "onednn");
        } catch (const Error& e) {
          const bool early =
              e.code() == TN_E_NOT_FOUND && i % 2;  // fixture may not be there yet for who installs the other
          if (!early) std::fprintf(stderr, "%s\n", e.what()), ++bad;
        }
      }
      _exit(bad);
    }
    children.push_back(pid);
  }
  for (const pid_t pid : children) {
    int status = 0;
    waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0);
  }
  EXPECT_EQ(ids(), (std::vector<std::string>{"fixture", "other"}));
  EXPECT_TRUE(store_.verify().empty());
  EXPECT_EQ(strangers(), 0);
}

TEST_F(StoreTest, AKilledInstallerLeavesAWorkingStore) {
  sealed_plugin(folder_ / "a");
  sealed_plugin(folder_ / "b", "sound_again");
  store_.install(folder_ / "a");
  for (int i = 1; i <= 12; ++i) {
    const pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      for (int round = 0;; ++round)
        Store(store_.path()).install(folder_ / (round % 2 ? "a" : "b"), {.allow_older = true});
    }
    usleep(static_cast<useconds_t>(7'000 * i));
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    const Catalog catalog({store_.path()});
    EXPECT_EQ(catalog.load("fixture", "onednn").id(), "fixture");
  }
  EXPECT_EQ(store_.rescan().plugins, 1u);
}

}  // namespace
}  // namespace tenon
