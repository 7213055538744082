#include "core/files/mapped_file.h"

#include <sys/stat.h>

#include "support.h"

namespace tenon {
namespace {

using test::refusal;
using test::ScratchFolder;
using test::write_text;

TEST(MappedFile, ReadsTheBytesAndSurvivesMoves) {
  ScratchFolder folder;
  write_text(folder / "a", "hello");
  MappedFile file(folder / "a");
  const std::byte* address = file.bytes().data();
  MappedFile moved(std::move(file));
  EXPECT_EQ(as_text(moved.bytes()), "hello");
  EXPECT_EQ(moved.bytes().data(), address);
  EXPECT_EQ(file.size(), 0u);
  write_text(folder / "b", "other");
  MappedFile other(folder / "b");
  other = std::move(moved);
  EXPECT_EQ(as_text(other.bytes()), "hello");
  EXPECT_EQ(other.path(), folder / "a");
}

// KiB of this process's mapping of `path` that are in memory.
size_t resident_kib(const std::string& path) {
  std::ifstream maps("/proc/self/smaps");
  bool found = false;
  for (std::string line; std::getline(maps, line);) {
    found = found || line.find(path) != std::string::npos;
    if (found && line.starts_with("Rss:")) return std::stoul(line.substr(4));
  }
  ADD_FAILURE() << path << " is not mapped";
  return 0;
}

TEST(MappedFile, DropGivesPagesBackAndKeepsTheBytes) {
  ScratchFolder folder;
  constexpr size_t kKiB = 1024;
  write_text(folder / "a", std::string(4096 * kKiB, 'x'));
  const MappedFile file(folder / "a");
  size_t sum = 0;
  for (const std::byte value : file.bytes()) sum += value == std::byte{'x'};
  EXPECT_EQ(sum, 4096 * kKiB);
  EXPECT_EQ(resident_kib(folder / "a"), 4096u);
  file.drop(1024 * kKiB + 5, 2048 * kKiB);
  EXPECT_LE(resident_kib(folder / "a"), 2048u);
  file.drop(0, UINT64_MAX);
  EXPECT_EQ(resident_kib(folder / "a"), 0u);
  file.drop(UINT64_MAX, 1);
  file.drop(1, 0);
  EXPECT_EQ(file.bytes()[2000 * kKiB], std::byte{'x'});
}

TEST(MappedFile, RefusalsNameThePath) {
  ScratchFolder folder;
  write_text(folder / "empty", "");
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_HAS(refusal(TN_E_NOT_FOUND, [&] { MappedFile file(folder / "none"); }), folder / "none");
  EXPECT_HAS(refusal(TN_E_FORMAT, [&] { MappedFile file(folder / "empty"); }), "empty (0 bytes)");
  EXPECT_HAS(refusal(TN_E_IO, [&] { MappedFile file(folder.path()); }), "it is a folder");
  EXPECT_HAS(refusal(TN_E_IO, [&] { MappedFile file(folder / "pipe"); }), "not a regular file");
  EXPECT_HAS(refusal(TN_E_IO, [&] { MappedFile file("/dev/zero"); }), "not a regular file");
}

}  // namespace
}  // namespace tenon
