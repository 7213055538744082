// Loading objects into this process: what is sound is usable, and each way to be broken gets its own sentence.
#include "core/plugins/library.h"

#include <gtest/gtest.h>

#include "core/plugins/elf.h"
#include "core/plugins/host.h"
#include "core/plugins/spec.h"
#include "plugin_folder.h"

namespace tenon {
namespace {

using testing::fixture;
using testing::Folder;
using testing::has;
using testing::read_text;
using testing::sentence_of;
using testing::write_text;

std::string refusal(const std::string& path, int32_t* code = nullptr) {
  return sentence_of([&] { (void)load_library(path); }, code);
}

TEST(Library, LoadsASoundPluginAndTypesItsTable) {
  std::string logged;
  set_log_sink([&](int32_t, std::string_view line) { logged = line; });
  const LoadedPlugin plugin = load_library(fixture("sound"));
  set_log_sink({});
  EXPECT_EQ(logged, "the fixture is ready");
  EXPECT_EQ(plugin.id(), "fixture");
  EXPECT_EQ(plugin.kind(), static_cast<uint32_t>(TN_KIND_OPTIMIZER));
  ASSERT_EQ(plugin.schema().size(), 4u);
  EXPECT_EQ(plugin.schema()[3].choices, (std::vector<std::string>{"std", "left"}));
  const auto& api = plugin.api<tn_optimizer_api>();
  const Spec spec = parse_spec("fixture:rank=4", plugin.schema());
  const HyperArray hypers(spec);
  tn_optimizer* instance = nullptr;
  check(api.create(host(), hypers.data(), hypers.size(), &instance), "create");
  tn_query query{};
  query.struct_size = sizeof query;
  query.dtype.bits = 64;
  EXPECT_EQ(sentence_of([&] { check(api.supports(instance, &query), "fixture"); }), "fixture: doubles are not offered");
  api.destroy(instance);
  EXPECT_TRUE(has(sentence_of([&] { (void)plugin.api<tn_quantizer_api>(); }),
                  "fixture is of the kind optimizer, but is used as quantizer"));
  EXPECT_EQ(plugin.extension<void>("org.tenon.nothing/1"), nullptr);
}

TEST(Library, LoadsTheSameObjectTwice) {
  const LoadedPlugin a = load_library(fixture("sound"));
  const LoadedPlugin b = load_library(fixture("sound"));
  EXPECT_EQ(&a.descriptor(), &b.descriptor());
}

TEST(Library, TakesATableThatIsLongerThanItKnows) {
  EXPECT_EQ(load_library(fixture("newer_table")).id(), "fixture");
}

TEST(Library, NamesWhatIsWrong) {
  const std::pair<const char*, const char*> kCases[] = {
      {"no_export", "does not export tn_plugin_entry"},
      {"wrong_major", "answers ABI 7.9 but was offered 0.9"},
      {"newer_minor", "answers ABI 0.10 but was offered 0.9"},
      {"refuses", "refuses ABI 0.9 of this host: this plugin needs ABI 3.2"},
      {"no_descriptor", "gave no descriptor"},
      {"no_size", "states a size of 0 bytes"},
      {"unknown_kind", "kind 99 is unknown"},
      {"null_slot", "required function 'apply' of this optimizer is missing"},
      {"half_save", "of 'save' and 'load' it has one"},
      {"bad_schema", "hyper-parameter 'rank' has the default 'none', which is not a whole number with rank >= 1"},
      {"bad_version", "version 'newest' is not of the form 1.2.3"},
      {"init_fails", "could not be initialised: the moon is not full"},
      {"needs_symbol", "undefined symbol: tenon_fixture_that_nobody_has"},
      {"needs_library", "libcore_fixture_gone.so: cannot open shared object file"},
  };
  for (const auto& [name, part] : kCases) {
    const std::string sentence = refusal(fixture(name));
    EXPECT_TRUE(has(sentence, part));
    EXPECT_TRUE(sentence.starts_with(fixture(name) + ": ")) << sentence;
  }
}

TEST(Library, AMissingLibraryIsAMatterOfTheMachine) {
  int32_t code = 0;
  refusal(fixture("needs_library"), &code);
  EXPECT_EQ(code, TN_E_DEVICE);
  refusal(fixture("needs_symbol"), &code);
  EXPECT_EQ(code, TN_E_FORMAT);
}

class DamagedObject : public ::testing::Test {
 protected:
  std::string edited(const std::function<void(std::string&)>& edit) {
    std::string bytes = read_text(fixture("sound"));
    edit(bytes);
    write_text(folder_ / "x.so", bytes);
    return folder_ / "x.so";
  }
  Folder folder_;
};

TEST_F(DamagedObject, IsRefusedBeforeTheLoaderSeesIt) {
  EXPECT_TRUE(has(refusal(edited([](std::string& b) { b.resize(20); })), "not a shared object"));
  EXPECT_TRUE(has(refusal(edited([](std::string& b) { b[0] = 'X'; })), "not a shared object"));
  EXPECT_TRUE(has(refusal(edited([](std::string& b) { b[4] = 1; })), "not 64-bit"));
  EXPECT_TRUE(has(refusal(edited([](std::string& b) { b[16] = 1; })), "link the plugin with -shared"));
  EXPECT_TRUE(has(refusal(edited([](std::string& b) { b.resize(b.size() / 4); })), "cut off"));
  EXPECT_TRUE(has(refusal(edited([](std::string& b) { b[38] = char(0xff); })), "program headers lie outside"));
  EXPECT_TRUE(has(refusal(edited([](std::string& b) { b.clear(); })), "x.so"));
  EXPECT_TRUE(has(refusal(folder_ / "nothing.so"), "nothing.so"));
  EXPECT_TRUE(has(refusal(folder_.str()), folder_.str()));
}

TEST_F(DamagedObject, AnotherArchitectureIsNamed) {
  const std::string path = edited([](std::string& b) { b[18] = host_arch() == "aarch64" ? 62 : char(183); });
  EXPECT_TRUE(has(refusal(path), "was built for " + std::string(host_arch() == "aarch64" ? "x86_64" : "aarch64") +
                                     " but this machine is"));
}

}  // namespace
}  // namespace tenon
