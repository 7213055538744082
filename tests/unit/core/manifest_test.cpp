// manifest.json: what reads back, and what each mistake is told.
#include "core/plugins/manifest.h"

#include <gtest/gtest.h>

#include "core/plugins/sha256.h"
#include "plugin_folder.h"

namespace tenon {
namespace {

using testing::Folder;
using testing::has;
using testing::sentence_of;
using testing::write_text;

const std::string kDigest(64, 'a');

std::string sealed(const std::string& more = "",
                   const std::string& head = R"("id": "nf4", "kind": "quantizer", "version": "1.2.3", "abi": "0.9")") {
  return R"({"manifest": 1, )" + head + R"(, "objects": [{"backend": "onednn", "file": "nf4.onednn.so", "sha256": ")" +
         kDigest +
         R"(", "arch": "x86_64", "cpu": ["avx2", "fma"]}], "hypers": [{"name": "block", "type": "int", "default": "64", "min": 1}])" +
         more + "}";
}

Manifest parse(const std::string& text) {
  return parse_manifest(text, "m.json");
}
std::string refusal(const std::string& text, ManifestState state = ManifestState::kSealed) {
  return sentence_of([&] { (void)parse_manifest(text, "m.json", state); });
}

TEST(Manifest, ReadsEverything) {
  const Manifest m = parse(sealed(
      R"(, "name": "NF4", "summary": "4 bits", "license": "Apache-2.0", "paper": {"title": "QLoRA", "year": 2023, "url": "u"},
    "provides": ["bits:4"], "requires": [{"tag": "run:eval|kind:adapter", "reason": "r"}], "conflicts": [{"tag": "run:full-tuning", "reason": "c"}],
    "layouts": ["bitsandbytes"], "a-key-of-the-future": [1])"));
  EXPECT_EQ(m.id, "nf4");
  EXPECT_EQ(m.kind, static_cast<uint32_t>(TN_KIND_QUANTIZER));
  EXPECT_EQ(m.paper.year, 2023);
  EXPECT_EQ(m.abi_minor, 9u);
  EXPECT_EQ(m.objects[0].cpu, (std::vector<std::string>{"avx2", "fma"}));
  EXPECT_EQ(m.hypers[0].max, std::numeric_limits<double>::infinity());
  EXPECT_EQ(m.requires_[0].tag, "run:eval|kind:adapter");
  EXPECT_EQ(m.backends(), std::vector<std::string>{"onednn"});
  const Manifest again = parse(manifest_text(m));
  EXPECT_EQ(manifest_text(again), manifest_text(m));
  EXPECT_EQ(again.hypers, m.hypers);
  EXPECT_EQ(again.objects, m.objects);
  EXPECT_EQ(again.conflicts, m.conflicts);
}

TEST(Manifest, MistakesAreNamed) {
  const std::pair<std::string, const char*> kCases[] = {
      {"{", "m.json"},
      {"[]", "it is not a JSON object"},
      {R"({"manifest": 2})", "its format \"manifest\" is 2, but this Tenon reads format 1; update Tenon"},
      {R"({"manifest": 1})", "id"},
      {sealed("", R"("id": "../x", "kind": "quantizer", "version": "1.2.3", "abi": "0.9")"),
       "the id '../x' is not valid"},
      {sealed("", R"("id": "x", "kind": "quantiser", "version": "1.2.3", "abi": "0.9")"), "did you mean 'quantizer'?"},
      {sealed("", R"("id": "x", "kind": "quantizer", "version": "one", "abi": "0.9")"),
       "the version 'one' is not of the form 1.2.3"},
      {sealed("", R"("id": "x", "kind": "quantizer", "version": "1.2.3", "abi": "9")"),
       "the ABI '9' is not of the form 0.9"},
      {sealed(R"(, "paper": {"title": "x", "year": 12})"), "year"},
      {sealed(R"(, "paper": 3)"), "paper"},
      {sealed(R"(, "name": "a\nb")"), "\"name\" has a control character"},
      {sealed(R"(, "provides": ["a b"])"), "the tag 'a b' is not valid"},
      {sealed(R"(, "provides": ["a|b"])"), "the tag 'a|b' is not valid"},
      {sealed(R"(, "provides": [1])"), "an entry of \"provides\" is not a text"},
      {sealed(R"(, "requires": [{"tag": "x"}])"), "\"requires\" gives no reason for 'x'"},
      {sealed(R"(, "conflicts": ["x"])"), "an entry of \"conflicts\" is not a JSON object"},
      {sealed(R"(, "id": "twice")"), "m.json"},
      {R"({"manifest": 1, "id": "x", "kind": "device", "version": "1.0.0", "abi": "0.9"})", "it lists no objects"},
  };
  for (const auto& [text, part] : kCases) {
    const std::string sentence = refusal(text);
    EXPECT_TRUE(has(sentence, part));
    EXPECT_TRUE(sentence.starts_with("m.json")) << sentence;
  }
}

TEST(Manifest, ObjectsStayInTheirFolder) {
  for (const char* const file : {"../x.so", "/etc/x.so", "a/b.so", ".so", "", "x y.so", "x\\u0000.so"}) {
    const std::string text =
        R"({"manifest": 1, "id": "x", "kind": "device", "version": "1.0.0", "abi": "0.9", "objects": [{"backend": "cuda", "file": ")" +
        std::string(file) + R"(", "sha256": ")" + kDigest + R"(", "arch": "x86_64"}]})";
    EXPECT_TRUE(has(refusal(text), "m.json")) << file;
  }
}

TEST(Manifest, AnAuthorsTypingErrorsAreNamed) {
  const std::string text = R"({"manifest": 1, "id": "x", "kind": "device", "licence": "MIT"})";
  EXPECT_TRUE(has(refusal(text, ManifestState::kAuthored), "the key 'licence' is unknown; did you mean 'license'?"));
}

TEST(Manifest, BombsAreRefused) {
  EXPECT_TRUE(has(refusal(std::string(200'000, '[')), "m.json"));
  EXPECT_TRUE(has(refusal(std::string(2 << 20, ' ')), "m.json"));
  Folder folder;
  write_text(folder / "manifest.json", std::string(64 << 20, '['));
  EXPECT_TRUE(has(sentence_of([&] { (void)read_manifest(folder.str()); }), "manifest.json"));
}

TEST(Manifest, FoldersThatAreNotPluginsAreNamed) {
  Folder folder;
  EXPECT_TRUE(has(sentence_of([&] { (void)read_manifest(folder.str()); }),
                  "there is no manifest.json in this folder, so it is not a plugin"));
  EXPECT_TRUE(has(sentence_of([&] { (void)read_manifest(folder / "nothing"); }), "there is no such folder"));
  write_text(folder / "manifest.json", "{");
  EXPECT_TRUE(has(sentence_of([&] { (void)read_manifest(folder.str()); }), folder.str()));
}

TEST(Sha256, MatchesThePublishedVectors) {
  EXPECT_EQ(sha256(as_bytes("")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256(as_bytes("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Folder folder;
  write_text(folder / "million", std::string(1'000'000, 'a'));
  EXPECT_EQ(sha256_of_file(folder / "million"), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  EXPECT_TRUE(has(sentence_of([&] { (void)sha256_of_file(folder / "nothing"); }), "nothing"));
}

}  // namespace
}  // namespace tenon
