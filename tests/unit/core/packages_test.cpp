// Keys, signatures, packages, and what is refused of strangers' ones.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "core/catalog/catalog.h"
#include "core/packages/archive.h"
#include "core/packages/key_files.h"
#include "core/packages/package.h"
#include "core/packages/signature.h"
#include "core/packages/trust.h"
#include "core/plugins/sha256.h"
#include "plugin_folder.h"
#include "tar_file.h"

namespace tenon {
namespace {

using testing::Folder;
using testing::has;
using testing::read_text;
using testing::sealed_plugin;
using testing::sentence_of;
using testing::TarFile;
using testing::write_text;
namespace fs = std::filesystem;

class Packages : public ::testing::Test {
 protected:
  Folder folder_;
  Store store_{folder_ / "store"};

  std::string keys() { return folder_ / "config"; }
  SecretKey key(const std::string& name = "author") {
    if (!fs::exists(fs::path(keys()) / "keys" / (name + ".secret"))) make_key_pair(keys(), name);
    return find_secret_key(keys(), name);
  }
  std::string package(const std::string& name = "p.tenon", bool is_signed = true, const std::string& object = "sound") {
    const std::string folder = sealed_plugin(folder_ / (name + ".folder"), object);
    const SecretKey author = key();
    return pack(folder, folder_ / name, is_signed ? &author : nullptr);
  }
  InstallOptions options() {
    InstallOptions o;
    o.keys = keys();
    return o;
  }
  std::string refusal(const std::string& path, InstallOptions o, int32_t* code = nullptr) {
    std::string sentence = sentence_of([&] { store_.install(path, o); }, code);
    EXPECT_FALSE(fs::exists(store_.path() + "/plugins/fixture")) << sentence;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(store_.path(), error))
      EXPECT_FALSE(entry.path().filename().string().starts_with("package")) << "left behind after: " << sentence;
    return sentence;
  }
};

std::array<uint8_t, 32> bytes_of(const std::string& hex) {
  std::array<uint8_t, 32> out{};
  for (size_t i = 0; i < 32; ++i) out[i] = static_cast<uint8_t>(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
  return out;
}

// RFC 8032, 7.1, test 2: one byte, 0x72.
TEST_F(Packages, SignAsTheStandardSays) {
  const SecretKey k =
      SecretKey::from_seed(bytes_of("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"), "rfc");
  EXPECT_EQ(k.public_key().bytes, bytes_of("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"));
  const std::array<uint8_t, 64> s = k.sign("r");
  EXPECT_EQ(to_base64(s.data(), 4), "kqAJqQ==");
  EXPECT_TRUE(k.public_key().verifies("r", s));
  EXPECT_FALSE(k.public_key().verifies("s", s));
}

TEST_F(Packages, SecretKeysAreForTheirOwnerAlone) {
  const std::string open_key = make_key_pair(keys(), "author");
  const std::string secret = keys() + "/keys/author.secret";
  struct stat status;
  ASSERT_EQ(stat(secret.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  EXPECT_TRUE(read_public_key(open_key) == key().public_key());
  EXPECT_TRUE(has(sentence_of([&] { make_key_pair(keys(), "author"); }), "there is a key of this name"));
  EXPECT_TRUE(has(sentence_of([&] { read_public_key(secret); }), "stays with its owner"));
  EXPECT_TRUE(has(sentence_of([&] { find_secret_key(keys(), "autor"); }), "'author'"));
  EXPECT_TRUE(has(sentence_of([&] { make_key_pair(keys(), "../x"); }), "cannot be a key's name"));
  chmod(secret.c_str(), 0644);
  int32_t code = 0;
  EXPECT_TRUE(has(sentence_of([&] { key(); }, &code), "others may read this secret key"));
  EXPECT_EQ(code, TN_E_TRUST);
  for (const char* damaged :
       {"", "tenon-ed25519-public", "tenon-ed25519-public QUJD author\n", "tenon-ed25519-public !!!! a\n"}) {
    write_text(folder_ / "bad.pub", damaged);
    EXPECT_TRUE(has(sentence_of([&] { read_public_key(folder_ / "bad.pub"); }), "bad.pub"));
  }
}

TEST_F(Packages, TrustIsGivenAndTakenByKey) {
  TrustStore trust(keys());
  EXPECT_TRUE(trust.list().empty());
  const PublicKey a = key("author").public_key(), b = key("other").public_key();
  EXPECT_TRUE(trust.add(a));
  EXPECT_FALSE(trust.add(a));
  EXPECT_TRUE(trust.add(b));
  ASSERT_EQ(trust.list().size(), 2u);
  EXPECT_EQ(trust.list()[0].owner, "author");
  EXPECT_TRUE(trust.find(b));
  EXPECT_TRUE(has(sentence_of([&] { trust.remove("athor"); }), "'author'"));
  EXPECT_EQ(trust.remove(b.id()).owner, "other");
  EXPECT_FALSE(trust.find(b));
  // The file's name alone proves nothing.
  fs::copy_file(keys() + "/trusted/" + a.id() + ".pub", keys() + "/trusted/" + b.id() + ".pub");
  EXPECT_TRUE(has(sentence_of([&] { (void)trust.find(b); }), "another key"));
  EXPECT_FALSE(TrustStore("").find(a));
}

TEST_F(Packages, AreTheSameBytesWhereverTheyAreMade) {
  const std::string first = read_text(package("a.tenon"));
  EXPECT_EQ(read_text(package("b.tenon")), first);
  EXPECT_EQ(first.size() % 10240, 0u);
  const PackageContents contents = inspect(folder_ / "a.tenon");
  EXPECT_EQ(contents.manifest.id, "fixture");
  ASSERT_TRUE(contents.signer);
  EXPECT_TRUE(*contents.signer == key().public_key());
  EXPECT_FALSE(inspect(package("c.tenon", false)).signer);
  sign_package(folder_ / "c.tenon", key());
  EXPECT_EQ(read_text(folder_ / "c.tenon"), first);
}

TEST_F(Packages, AreInstalledBySignature) {
  int32_t code = 0;
  EXPECT_TRUE(has(refusal(package("u.tenon", false), options(), &code), "u.tenon: the package is not signed"));
  EXPECT_EQ(code, TN_E_TRUST);
  const std::string path = package();
  EXPECT_TRUE(has(refusal(path, options(), &code), key().public_key().id()));
  EXPECT_EQ(code, TN_E_TRUST);
  InstallOptions unsigned_only = options();
  unsigned_only.allow_unsigned = true;
  EXPECT_TRUE(has(refusal(path, unsigned_only), "--allow-unknown-key"));
  InstallOptions any_key = options();
  any_key.allow_unknown_key = true;
  EXPECT_TRUE(has(refusal(folder_ / "u.tenon", any_key), "--allow-unsigned"));

  TrustStore(keys()).add(key().public_key());
  const InstallReport report = store_.install(path, options());
  EXPECT_TRUE(has(report.signer, "author (key id "));
  EXPECT_EQ(Catalog({store_.path()}).load("fixture", "onednn").id(), "fixture");
  EXPECT_FALSE(store_.install(path, options()).changed);
  store_.remove("fixture");
  EXPECT_EQ(store_.install(folder_ / "u.tenon", unsigned_only).signer, "");
  store_.remove("fixture");
  TrustStore(keys()).remove("author");
  EXPECT_TRUE(store_.install(path, any_key).changed);
}

TEST_F(Packages, AnUnpackedOneIsHeldToItsSignature) {
  package();
  const std::string folder = folder_ / "unpacked";
  fs::create_directory(folder);
  unpack(folder_ / "p.tenon", folder);
  EXPECT_TRUE(has(refusal(folder, options()), "whom you do not trust"));
  write_text(fs::path(folder) / "README.md", "added");
  InstallOptions any_key = options();
  any_key.allow_unknown_key = true;
  int32_t code = 0;
  EXPECT_TRUE(has(refusal(folder, any_key, &code), "differ from what author"));
  EXPECT_EQ(code, TN_E_TRUST);
}

TEST_F(Packages, TheStoreIsHeldToTheSignatureToo) {
  TrustStore(keys()).add(key().public_key());
  store_.install(package(), options());
  EXPECT_TRUE(store_.verify().empty());
  const fs::path manifest = store_.path() + "/plugins/fixture/1.0.0/manifest.json";
  std::string text = read_text(manifest);
  text.replace(text.find("Fixture"), 7, "Forgery");
  write_text(manifest, text);
  const auto findings = store_.verify();
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_TRUE(has(findings[0].problem, "differ from what author"));
  const RescanReport report = store_.rescan();
  EXPECT_EQ(report.plugins, 0u);
  ASSERT_EQ(report.problems.size(), 1u);
}

// A flipped bit is refused, or it lies in the padding between files and what is unpacked is the same.
TEST_F(Packages, NoByteOfAFileCanBeChanged) {
  const std::string sound = read_text(package());
  const auto unpacked = [&](const std::string& bytes) {
    const Folder to;
    write_text(folder_ / "altered.tenon", bytes);
    unpack(folder_ / "altered.tenon", to.str());
    std::string all;
    for (const char* name : {"fixture.onednn.so", "manifest.json", "signature.json"}) all += read_text(to / name);
    return all;
  };
  const std::string files = unpacked(sound);
  const size_t end = sound.find_last_not_of('\0');
  size_t refused = 0, looked = 0;
  for (size_t at = 0; at < end; at += 97, ++looked) {
    std::string altered = sound;
    altered[at] = static_cast<char>(altered[at] ^ 0x20);
    try {
      EXPECT_EQ(unpacked(altered), files) << at;
    } catch (const Error& e) {
      ++refused;
      EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
    }
  }
  EXPECT_GT(refused, looked * 9 / 10);
}

TEST_F(Packages, HostileArchivesAreRefusedInOneSentence) {
  const std::string manifest = read_text(sealed_plugin(folder_ / "m") + "/manifest.json");
  const struct {
    std::string bytes, says;
  } hostile[] = {
      {"", "not a package"},
      {"hello", "not a package"},
      {std::string(10240, '\0'), "not a package"},
      {TarFile().add("../evil", "x").bytes(), "not the plain name"},
      {TarFile().add("/etc/evil", "x").bytes(), "not the plain name"},
      {TarFile().add("a/b", "x").bytes(), "not the plain name"},
      {TarFile().add("..", "x").bytes(), "not the plain name"},
      {TarFile().add(".hidden", "x").bytes(), "not the plain name"},
      {TarFile().add("a\nb", "x").bytes(), "not the plain name"},
      {TarFile().add("link", "", '2', "/etc/passwd").bytes(), "not a plain file"},
      {TarFile().add("a", "x").add("hard", "", '1', "a").bytes(), "not a plain file"},
      {TarFile().add("folder", "", '5').bytes(), "not a plain file"},
      {TarFile().add("device", "", '3').bytes(), "not a plain file"},
      {TarFile().add("pipe", "", '6').bytes(), "not a plain file"},
      {TarFile().add("manifest.json", manifest).add("manifest.json", manifest).bytes(), "twice"},
      {TarFile().add("manifest.json", "x", '0', "", 2 << 20).bytes(), "at most"},
      {TarFile().add("signature.json", std::string(70000, ' ')).bytes(), "at most"},
      {TarFile().add("o.so", "x", '0', "", int64_t{5} << 30).bytes(), "at most"},
      {TarFile().add("o.so", "x", '0', "", 900000).bytes(), "cut short"},
      {TarFile().add("o.so", "x", '0', "", 9000).bytes().substr(0, 4096), "cut short"},
      {TarFile().add("x", std::string("17 path=../evil\n\0", 17), 'x').add("o.so", "x").bytes(), "package"},
      {TarFile().add("manifest.json", manifest).bytes() + "more", "something was added"},
      {TarFile().add("manifest.json", manifest).bytes(), "is missing"},
      {TarFile().add("README.md", "x").bytes(), "no manifest.json"},
      {TarFile().add("manifest.json", "{").bytes(), "manifest.json"},
      {TarFile().add("manifest.json", manifest).add("run.sh", "x").bytes(), "neither an object"},
      {TarFile().add("manifest.json", manifest).add("fixture.onednn.so", "x").bytes(), "altered"},
  };
  InstallOptions all = options();
  all.allow_unsigned = all.allow_unknown_key = true;
  for (const auto& h : hostile) {
    write_text(folder_ / "hostile.tenon", h.bytes);
    EXPECT_TRUE(has(refusal(folder_ / "hostile.tenon", all), h.says));
  }
  EXPECT_FALSE(fs::exists(folder_ / "evil"));
  TarFile many;
  for (int i = 0; i < 300; ++i) many.add("f" + std::to_string(i), "");
  write_text(folder_ / "hostile.tenon", many.bytes());
  EXPECT_TRUE(has(refusal(folder_ / "hostile.tenon", all), "more than 256"));
}

TEST_F(Packages, DamagedSignaturesAreRefused) {
  const std::string folder = sealed_plugin(folder_ / "s");
  const Manifest manifest = read_manifest(folder);
  sign_folder(folder, manifest, key());
  const std::string sound = read_text(folder + "/signature.json");
  EXPECT_TRUE(check_signature(folder, manifest));
  const auto with = [&](std::string from, const std::string& to) {
    std::string text = sound;
    text.replace(text.find(from), from.size(), to);
    return text;
  };
  for (const std::string& damaged :
       {std::string(), std::string("[]"), with("ed25519", "none"), with("\"signature\": 1", "\"signature\": 2"),
        with("\"value\": \"", "\"value\": \"A"), with("author", "..\\u0000"), with("\"key\": \"", "\"key\": \"=")}) {
    write_text(folder + "/signature.json", damaged);
    EXPECT_TRUE(has(sentence_of([&] { (void)check_signature(folder, manifest); }), "signature.json")) << damaged;
  }
  // Another's key in place of the author's.
  const PublicKey other = key("other").public_key(), own = key().public_key();
  write_text(folder + "/signature.json", with(to_base64(own.bytes.data(), 32), to_base64(other.bytes.data(), 32)));
  EXPECT_TRUE(has(sentence_of([&] { (void)check_signature(folder, manifest); }), "differ"));
}

TEST_F(Packages, CannotBeMadeOfWhatIsNotSound) {
  EXPECT_TRUE(has(sentence_of([&] { pack(testing::author_plugin(folder_ / "raw"), folder_ / "x", nullptr); }),
                  "manifest.json"));
  const std::string folder = sealed_plugin(folder_ / "altered");
  std::ofstream(folder + "/fixture.onednn.so", std::ios::app) << "x";
  EXPECT_TRUE(has(sentence_of([&] { pack(folder, folder_ / "x", nullptr); }), "altered or damaged"));
  EXPECT_FALSE(fs::exists(folder_ / "x"));
}

}  // namespace
}  // namespace tenon
