// The catalog's answers: stacks of stores, names, trust, mixes.
#include "core/catalog/catalog.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>

#include "core/catalog/records.h"
#include "core/plugins/locations.h"
#include "plugin_folder.h"

namespace tenon {
namespace {

using testing::fixture;
using testing::Folder;
using testing::has;
using testing::read_text;
using testing::sealed_plugin;
using testing::sentence_of;
namespace fs = std::filesystem;

// A store whose rows describe plugins that have no files: enough for every question but loading.
class PaperStore {
 public:
  explicit PaperStore(const std::string& path) : path_(path) {
    fs::create_directories(path);
    db_ = std::make_unique<Database>(Database::open(path + "/catalog.sqlite"));
    prepare_catalog(*db_, path);
  }
  void add(const std::string& id, uint32_t kind, const std::string& version = "1.0.0",
           const std::vector<Relation>& required = {}, const std::vector<Relation>& conflicts = {},
           const std::vector<std::string>& provides = {}, const std::string& backend = "onednn") {
    Manifest m;
    m.id = id, m.kind = kind, m.version = version, m.name = id, m.abi_minor = 9;
    m.requires_ = required, m.conflicts = conflicts, m.provides = provides;
    m.layouts = {"layout:" + id};
    m.objects = {{backend, id + ".so", std::string(64, 'a'), "x86_64", {}}};
    m.hypers = {{TN_TYPE_BOOL, "flag", "false", 0, 0, 0, {}, "", ""}};
    record_plugin(*db_, m, manifest_text(m), "plugins/" + id + '/' + version, {{}});
  }
  Database& db() { return *db_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::unique_ptr<Database> db_;
};

std::vector<std::string> ids(const std::vector<PluginRow>& rows) {
  std::vector<std::string> out;
  for (const PluginRow& row : rows) out.push_back(row.id + ' ' + row.version);
  return out;
}

TEST(Catalog, TheNewestVersionOfAStackCounts) {
  Folder folder;
  PaperStore user(folder / "user"), bundled(folder / "bundled");
  user.add("galore", TN_KIND_OPTIMIZER, "1.2.0");
  bundled.add("galore", TN_KIND_OPTIMIZER, "1.10.0");
  user.add("lion", TN_KIND_OPTIMIZER, "1.0.0");
  bundled.add("lion", TN_KIND_OPTIMIZER, "1.0.0");
  bundled.add("nf4", TN_KIND_QUANTIZER);
  const Catalog catalog({user.path(), folder / "missing", bundled.path()});
  EXPECT_EQ(ids(catalog.list()), (std::vector<std::string>{"galore 1.10.0", "lion 1.0.0", "nf4 1.0.0"}));
  EXPECT_EQ(catalog.list()[0].store, bundled.path());
  EXPECT_EQ(catalog.list()[1].store, user.path());
  EXPECT_EQ(catalog.folder("galore"), bundled.path() + "/plugins/galore/1.10.0");
}

// Ids of several kinds in turn, and of two stores: each plugin has its own backends, those of the store that counts.
TEST(Catalog, EachPluginOfAListHasItsBackends) {
  Folder folder;
  PaperStore user(folder / "user"), bundled(folder / "bundled");
  user.add("b", TN_KIND_OPTIMIZER, "2.0.0", {}, {}, {}, "hip");
  user.add("c", TN_KIND_ADAPTER, "1.0.0", {}, {}, {}, "any");
  bundled.add("a", TN_KIND_QUANTIZER, "1.0.0", {}, {}, {}, "cuda");
  bundled.add("b", TN_KIND_OPTIMIZER, "1.0.0", {}, {}, {}, "cuda");
  bundled.add("c", TN_KIND_ADAPTER, "3.0.0", {}, {}, {}, "onednn");
  bundled.add("d", TN_KIND_OPTIMIZER, "1.0.0", {}, {}, {}, "cuda");
  bundled.add("e", TN_KIND_QUANTIZER, "1.0.0", {}, {}, {}, "hip");
  bundled.db().execute(
      "INSERT INTO object SELECT plugin, 1, 'onednn', 'x', sha256, arch, cpu, bytes, mtime, ctime, inode FROM object WHERE plugin IN ('a', 'b', 'd');"
      "INSERT INTO object SELECT plugin, 2, 'cuda', 'y', sha256, arch, cpu, bytes, mtime, ctime, inode FROM object WHERE plugin = 'a' AND position = 0");
  using Row = std::pair<std::string, std::vector<std::string>>;
  std::vector<Row> found;
  for (const PluginRow& row : Catalog({user.path(), bundled.path()}).list()) found.emplace_back(row.id + ' ' + row.version, row.backends);
  EXPECT_EQ(found, (std::vector<Row>{{"c 3.0.0", {"onednn"}}, {"b 2.0.0", {"hip"}}, {"d 1.0.0", {"cuda", "onednn"}}, {"a 1.0.0", {"cuda", "onednn"}}, {"e 1.0.0", {"hip"}}}));
}

TEST(Catalog, FindsByKindTagLayoutAndBackend) {
  Folder folder;
  PaperStore store(folder / "s");
  store.add("galore", TN_KIND_OPTIMIZER, "1.0.0", {}, {}, {"optimizer:one-at-a-time"});
  store.add("nf4", TN_KIND_QUANTIZER, "1.0.0", {}, {}, {}, "cuda");
  store.add("portable", TN_KIND_QUANTIZER, "1.0.0", {}, {}, {}, "any");
  const Catalog catalog({store.path()});
  EXPECT_EQ(ids(catalog.list({.kind = "quantizer"})), (std::vector<std::string>{"nf4 1.0.0", "portable 1.0.0"}));
  EXPECT_EQ(ids(catalog.list({.tag = "optimizer:one-at-a-time"})), std::vector<std::string>{"galore 1.0.0"});
  EXPECT_EQ(ids(catalog.list({.layout = "layout:nf4"})), std::vector<std::string>{"nf4 1.0.0"});
  EXPECT_EQ(ids(catalog.list({.backend = "onednn"})), (std::vector<std::string>{"galore 1.0.0", "portable 1.0.0"}));
  EXPECT_TRUE(catalog.list({.kind = "optimizer", .layout = "layout:nf4"}).empty());
}

TEST(Catalog, UnknownNamesGetTheNearest) {
  Folder folder;
  PaperStore store(folder / "s");
  store.add("adamw", TN_KIND_OPTIMIZER);
  store.add("com.example.lion", TN_KIND_OPTIMIZER);
  store.add("org.other.twin", TN_KIND_OPTIMIZER);
  store.add("com.example.twin", TN_KIND_OPTIMIZER);
  store.add("nf4", TN_KIND_QUANTIZER);
  const Catalog catalog({store.path()});
  EXPECT_EQ(catalog.resolve(TN_KIND_OPTIMIZER, "adamw"), "adamw");
  EXPECT_EQ(catalog.resolve(TN_KIND_OPTIMIZER, "lion"), "com.example.lion");
  EXPECT_EQ(catalog.spec(TN_KIND_OPTIMIZER, "lion:flag=yes").id, "com.example.lion");
  const auto refusal = [&](uint32_t kind, const char* text) {
    return sentence_of([&] { (void)catalog.spec(kind, text); });
  };
  EXPECT_EQ(refusal(TN_KIND_OPTIMIZER, "adamv"), "no optimizer named 'adamv' is installed; did you mean 'adamw'?");
  EXPECT_EQ(refusal(TN_KIND_OPTIMIZER, "nf4"), "no optimizer named 'nf4' is installed (nf4 is of the kind quantizer)");
  EXPECT_EQ(refusal(TN_KIND_ADAPTER, "lora"),
            "no adapter named 'lora' is installed, nor any other; install one with `tenon plugin install FOLDER`");
  EXPECT_TRUE(
      has(refusal(TN_KIND_OPTIMIZER, "twin"), "several ids end in it; write com.example.twin or org.other.twin"));
  EXPECT_EQ(refusal(TN_KIND_OPTIMIZER, "adamw:flga=1"), "adamw has no parameter 'flga'; did you mean 'flag'?");
  EXPECT_EQ(sentence_of([&] { (void)catalog.info("nf5"); }), "no plugin named 'nf5' is installed; did you mean 'nf4'?");
}

TEST(Catalog, TwoThousandPluginsStayInstant) {
  Folder folder;
  PaperStore user(folder / "user"), bundled(folder / "bundled");
  for (PaperStore* const store : {&user, &bundled}) {
    Transaction transaction(store->db());
    for (int i = 0; i < 2000; ++i) {
      store->add(std::string("technique-") + std::to_string(i), 2 + i % 4, "1.0." + std::to_string(i % 7),
                 {{"kind:optimizer|x", "r"}}, {{"plugin:technique-" + std::to_string(i + 4), "these two do not mix"}},
                 {"tag:" + std::to_string(i % 10)});
    }
    transaction.commit();
  }
  const auto begin = std::chrono::steady_clock::now();
  const Catalog catalog({user.path(), bundled.path()});
  EXPECT_EQ(catalog.list().size(), 2000u);
  EXPECT_EQ(catalog.list({.kind = "optimizer", .tag = "tag:4"}).size(), 100u);
  for (int i = 0; i < 100; ++i) {
    const std::vector<Spec> mix = {catalog.spec(TN_KIND_OPTIMIZER, "technique-" + std::to_string(4 * i)),
                                   catalog.spec(TN_KIND_OPTIMIZER, "technique-" + std::to_string(4 * i + 4))};
    EXPECT_EQ(catalog.check_mix(mix, {}).reasons.size(), 1u);
  }
  // Minutes where a query scans what it should look up; two orders of magnitude of room for a slow machine.
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
}

class MixTest : public ::testing::Test {
 protected:
  MixTest() : store_(folder_ / "s") {
    store_.add("adamw", TN_KIND_OPTIMIZER, "1.0.0", {}, {}, {"optimizer:one-at-a-time"});
    store_.add("global", TN_KIND_OPTIMIZER);
    store_.add("single", TN_KIND_OPTIMIZER, "1.0.0", {}, {{"kind:optimizer", "it wants to be the only optimizer"}});
    store_.add("lora", TN_KIND_ADAPTER);
    store_.add("nf4", TN_KIND_QUANTIZER, "1.0.0",
               {{"run:eval|run:adapter-tuning", "weights in 4 bits cannot be tuned in full; add an adapter"}});
    store_.add("picky", TN_KIND_ADAPTER, "1.0.0", {}, {{"nf4:flag=true", "it cannot read flagged weights"}});
    store_.add("cuda-only", TN_KIND_OPTIMIZER, "1.0.0", {}, {}, {}, "cuda");
    catalog_ = std::make_unique<Catalog>(std::vector<std::string>{store_.path()});
    catalog_->add_feature({"fused-backward",
                           "--fused-backward",
                           {},
                           {{"optimizer:one-at-a-time", "the optimizer must take one weight at a time"}},
                           {{"run:accumulate", "gradients are gone after the backward pass"}}});
  }
  std::string ask(const std::vector<std::pair<uint32_t, std::string>>& techniques, std::vector<std::string> tags) {
    std::vector<Spec> specs;
    for (const auto& [kind, text] : techniques) specs.push_back(catalog_->spec(kind, text));
    for (const std::string& tag : usual_run_tags(*catalog_, specs)) tags.push_back(tag);
    const MixAnswer answer = catalog_->check_mix(specs, tags);
    EXPECT_EQ(answer.possible, answer.reasons.empty());
    std::string all;
    for (const MixReason& reason : answer.reasons) all += reason.sentence + '\n';
    return all;
  }

  Folder folder_;
  PaperStore store_;
  std::unique_ptr<Catalog> catalog_;
};

TEST_F(MixTest, RequirementsAreMetByAnyAlternative) {
  EXPECT_EQ(
      ask({{TN_KIND_OPTIMIZER, "adamw"}, {TN_KIND_ADAPTER, "lora"}, {TN_KIND_QUANTIZER, "nf4"}}, {"device:onednn"}),
      "");
  EXPECT_EQ(ask({{TN_KIND_QUANTIZER, "nf4"}}, {}), "");
  EXPECT_EQ(ask({{TN_KIND_OPTIMIZER, "adamw"}, {TN_KIND_QUANTIZER, "nf4"}}, {}),
            "nf4: weights in 4 bits cannot be tuned in full; add an adapter\n");
}

TEST_F(MixTest, FeaturesOfTheHostTakePart) {
  EXPECT_EQ(ask({{TN_KIND_OPTIMIZER, "adamw"}}, {"run:fused-backward"}), "");
  EXPECT_EQ(ask({{TN_KIND_OPTIMIZER, "global"}}, {"run:fused-backward"}),
            "fused-backward: the optimizer must take one weight at a time\n");
  EXPECT_EQ(ask({{TN_KIND_OPTIMIZER, "global"}}, {"run:fused-backward", "run:accumulate"}),
            "fused-backward: the optimizer must take one weight at a time\nfused-backward: gradients are gone after "
            "the backward pass\n");
  EXPECT_EQ(ask({{TN_KIND_OPTIMIZER, "global"}}, {"run:accumulate"}), "");
}

TEST_F(MixTest, ATechniqueDoesNotConflictWithItself) {
  EXPECT_EQ(ask({{TN_KIND_OPTIMIZER, "single"}}, {}), "");
  EXPECT_EQ(ask({{TN_KIND_OPTIMIZER, "single"}, {TN_KIND_OPTIMIZER, "adamw"}}, {}),
            "single: it wants to be the only optimizer\n");
}

TEST_F(MixTest, ValuesCountToo) {
  const auto mix = [&](const char* nf4) {
    return ask({{TN_KIND_OPTIMIZER, "adamw"}, {TN_KIND_ADAPTER, "picky"}, {TN_KIND_QUANTIZER, nf4}}, {});
  };
  EXPECT_EQ(mix("nf4"), "");
  EXPECT_EQ(mix("nf4:flag=true"), "picky: it cannot read flagged weights\n");
}

TEST_F(MixTest, TheDeviceMustHaveAnObject) {
  EXPECT_EQ(ask({{TN_KIND_OPTIMIZER, "cuda-only"}}, {"device:cuda"}), "");
  EXPECT_EQ(ask({{TN_KIND_OPTIMIZER, "cuda-only"}}, {"device:onednn"}),
            "cuda-only: it has no object for the device onednn\n");
}

TEST_F(MixTest, QuestionsDoNotLeaveTraces) {
  EXPECT_NE(ask({{TN_KIND_OPTIMIZER, "adamw"}, {TN_KIND_QUANTIZER, "nf4"}}, {}), "");
  EXPECT_EQ(ask({{TN_KIND_OPTIMIZER, "adamw"}}, {}), "");
}

class Trusting : public ::testing::Test {
 protected:
  Trusting() {
    Store(folder_ / "s").install(sealed_plugin(folder_ / "p"));
    object_ = folder_ / "s/plugins/fixture/1.0.0/fixture.onednn.so";
  }
  std::string refusal() {
    int32_t code = 0;
    const std::string sentence = sentence_of([&] { (void)Catalog({folder_ / "s"}).load("fixture", "onednn"); }, &code);
    EXPECT_EQ(code, TN_E_TRUST);
    return sentence;
  }
  Folder folder_;
  std::string object_;
};

TEST_F(Trusting, AlteredObjectsAreNotLoaded) {
  std::ofstream(object_, std::ios::app) << "x";
  EXPECT_TRUE(has(refusal(), "differs from what was installed; run `tenon plugin verify`, then install fixture again"));
  EXPECT_EQ(Catalog({folder_ / "s"}).load("fixture", "onednn", Trust::kAllowAltered).id(), "fixture");
  fs::remove(object_);
  EXPECT_TRUE(has(refusal(), "is missing or differs"));
}

TEST_F(Trusting, RestoringSizeAndTimeDoesNotHelp) {
  const auto time = fs::last_write_time(object_);
  std::string bytes = read_text(object_);
  bytes[bytes.size() - 1] ^= 1;
  std::ofstream(object_, std::ios::binary) << bytes;
  fs::last_write_time(object_, time);
  refusal();
}

TEST_F(Trusting, ACopiedStoreIsAsGoodAsTheFirst) {
  fs::copy(folder_ / "s", folder_ / "t", fs::copy_options::recursive);
  const Catalog catalog({folder_ / "t"});
  EXPECT_EQ(catalog.load("fixture", "onednn").path(), (folder_ / "t/plugins/fixture/1.0.0/fixture.onednn.so").string());
}

TEST_F(Trusting, AReadOnlyStoreIsReadable) {
  fs::permissions(folder_ / "s/catalog.sqlite", fs::perms::owner_read);
  fs::permissions(folder_ / "s", fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_EQ(Catalog({folder_ / "s"}).load("fixture", "onednn").id(), "fixture");
  fs::permissions(folder_ / "s", fs::perms::owner_all);
}

TEST_F(Trusting, AnotherDeviceIsRefusedByName) {
  EXPECT_EQ(sentence_of([&] { (void)Catalog({folder_ / "s"}).load("fixture", "cuda"); }),
            "fixture is not built for the device cuda, only for onednn; choose another device or technique");
}

TEST_F(Trusting, TheCpuDecidesWhichObject) {
  sealed_plugin(folder_ / "q");
  fs::rename(folder_ / "q/fixture.onednn.so", folder_ / "q/fixture.onednn.x86-64-v2.so");
  testing::write_text(folder_ / "q/manifest.json", R"({"manifest": 1, "id": "fixture", "kind": "optimizer"})");
  seal(folder_ / "q");
  Store(folder_ / "u").install(folder_ / "q");
  const Catalog catalog({folder_ / "u"});
  EXPECT_EQ(catalog.load("fixture", "onednn").id(), "fixture");
  setenv("TENON_CPU", "x86-64", 1);
  EXPECT_TRUE(has(sentence_of([&] { (void)catalog.load("fixture", "onednn"); }),
                  "no object that this machine can run (fixture.onednn.x86-64-v2.so needs"));
  unsetenv("TENON_CPU");
}

TEST(Locations, FollowTheEnvironment) {
  const char* const kept = std::getenv("HOME");
  const std::string home = kept ? kept : "/root";
  setenv("TENON_HOME", "/somewhere/tenon", 1);
  EXPECT_EQ(user_store(), "/somewhere/tenon");
  setenv("TENON_HOME", "relative", 1);
  EXPECT_TRUE(has(sentence_of([] { (void)user_store(); }), "TENON_HOME is 'relative'; set it to an absolute path"));
  unsetenv("TENON_HOME");
  setenv("XDG_DATA_HOME", "/data", 1);
  EXPECT_EQ(user_store(), "/data/tenon");
  setenv("XDG_DATA_HOME", "data", 1);
  setenv("HOME", "/home/x", 1);
  EXPECT_EQ(user_store(), "/home/x/.local/share/tenon");
  unsetenv("XDG_DATA_HOME");
  setenv("HOME", home.c_str(), 1);
  EXPECT_TRUE(has(bundled_store(), "lib/tenon"));
  EXPECT_TRUE(has(probe_program(), "tenon-probe"));
}

}  // namespace
}  // namespace tenon
