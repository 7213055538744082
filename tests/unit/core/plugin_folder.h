// Folders of plugins made of the fixtures, and a folder of one's own for each test.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "core/error.h"
#include "core/plugins/seal.h"

namespace tenon::testing {

namespace fs = std::filesystem;

inline std::string fixture(const std::string& name) {
  return std::string(TENON_BINARY_DIR) + "/tests/core_fixtures/" + name + ".so";
}

// A folder that goes with the test.
class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "tenon-test-XXXXXX").string();
    if (!mkdtemp(name.data())) throw std::runtime_error("no temporary folder");
    path_ = name;
  }
  ~Folder() {
    std::error_code error;
    fs::remove_all(path_, error);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  fs::path operator/(const std::string& name) const { return path_ / name; }
  std::string str() const { return path_; }

 private:
  fs::path path_;
};

inline void write_text(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

inline std::string read_text(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// An authored plugin folder around one fixture; `more` are further keys of the manifest (", \"conflicts\": …").
inline std::string author_plugin(const fs::path& folder, const std::string& object = "sound",
                                 const std::string& more = "", const std::string& id = "fixture") {
  write_text(folder / "manifest.json",
             R"({"manifest": 1, "id": ")" + id + R"(", "kind": "optimizer", "name": "Fixture")" + more + "}");
  fs::copy_file(fixture(object), folder / (id + ".onednn.so"), fs::copy_options::overwrite_existing);
  return folder;
}

inline std::string sealed_plugin(const fs::path& folder, const std::string& object = "sound",
                                 const std::string& more = "", const std::string& id = "fixture") {
  author_plugin(folder, object, more, id);
  seal(folder);
  return folder;
}

// Runs `action` and answers the sentence of the Error that it must throw; checks that it is one line.
inline std::string sentence_of(const std::function<void()>& action, int32_t* code = nullptr) {
  try {
    action();
  } catch (const Error& e) {
    if (code) *code = e.code();
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

inline ::testing::AssertionResult has(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "'" << part << "' is not in: " << text;
}

}  // namespace tenon::testing
