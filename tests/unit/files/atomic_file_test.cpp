#include "core/files/atomic_file.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>

#include "core/files/atomic_folder.h"
#include "support.h"

namespace tenon {
namespace {

using test::read_text;
using test::refusal;
using test::ScratchFolder;
using test::write_text;

// Runs `action` in a child process and returns its wait status.
template <class Action>
int in_child(Action action) {
  const pid_t child = ::fork();
  if (child == 0) {
    action();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

TEST(AtomicFile, ReplacesTheWholeFile) {
  ScratchFolder folder;
  const std::string path = folder / "a.txt";
  write_text(path, "a longer old content");
  write_file_atomically(path, "new");
  EXPECT_EQ(read_text(path), "new");
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(AtomicFile, NothingIsVisibleBeforeCommit) {
  ScratchFolder folder;
  AtomicFile file(folder / "a");
  file.write("content");
  EXPECT_FALSE(std::filesystem::exists(folder / "a"));
  file.commit();
  EXPECT_EQ(read_text(folder / "a"), "content");
}

TEST(AtomicFile, DestroyedWithoutCommitLeavesNoTrace) {
  ScratchFolder folder;
  write_text(folder / "a", "old");
  {
    AtomicFile file(folder / "a");
    file.write("half");
    AtomicFile moved(std::move(file));
    moved.write(" more");
  }
  EXPECT_EQ(read_text(folder / "a"), "old");
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(AtomicFile, KilledBeforeCommitLeavesTheOldFile) {
  ScratchFolder folder;
  write_text(folder / "a", "old");
  const int status = in_child([&] {
    AtomicFile file(folder / "a");
    file.write("half of the new");
    ::raise(SIGKILL);
  });
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(read_text(folder / "a"), "old");
  int left = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    left += is_temporary_name(entry.path().filename().string());
  }
  EXPECT_EQ(left, 1);
}

TEST(AtomicFile, WritesAtPositionsAndZeroFills) {
  ScratchFolder folder;
  AtomicFile file(folder / "a");
  file.resize(10);
  file.write_at(6, as_bytes("yz"));
  file.write_at(0, as_bytes("ab"));
  file.commit();
  EXPECT_EQ(read_text(folder / "a"), std::string("ab\0\0\0\0yz\0\0", 10));
}

TEST(AtomicFile, FollowsALinkAndKeepsTheMode) {
  ScratchFolder folder;
  write_text(folder / "real", "old");
  ASSERT_EQ(::chmod((folder / "real").c_str(), 0640), 0);
  std::filesystem::create_symlink("real", folder / "link");
  write_file_atomically(folder / "link", "new");
  EXPECT_EQ(read_text(folder / "real"), "new");
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "link"));
  struct stat status;
  ASSERT_EQ(::stat((folder / "real").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640u);
}

TEST(AtomicFile, FullDiskIsOneSentence) {
  const std::string sentence = refusal(TN_E_IO, [] { write_file_atomically("/dev/full", "x"); });
  EXPECT_HAS(sentence, "/dev/full");
  EXPECT_HAS(sentence, "no space is left");
}

TEST(AtomicFile, DevicesAreWrittenAndNotReplaced) {
  write_file_atomically("/dev/null", "x");
  struct stat status;
  ASSERT_EQ(::stat("/dev/null", &status), 0);
  EXPECT_TRUE(S_ISCHR(status.st_mode));
}

TEST(AtomicFile, FileSizeLimitIsOneSentenceAndLeavesTheOldFile) {
  ScratchFolder folder;
  write_text(folder / "a", "old");
  const int status = in_child([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {100, 100};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    try {
      write_file_atomically(folder / "a", std::string(1000, 'x'));
    } catch (const Error& error) {
      const std::string sentence = error.what();
      ::_exit(sentence.find("larger than") != std::string::npos && sentence.find(folder / "a") != std::string::npos
                  ? 42
                  : 1);
    }
  });
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 42);
  EXPECT_EQ(read_text(folder / "a"), "old");
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(AtomicFile, FolderWithoutPermissionIsNamed) {
  ScratchFolder folder;
  ASSERT_EQ(::chmod(folder.path().c_str(), 0555), 0);
  const int status = in_child([&] {
    // Permissions do not bind root.
    if (::geteuid() == 0 && ::setuid(65534) != 0) ::_exit(2);
    try {
      write_file_atomically(folder / "a", "x");
    } catch (const Error& error) {
      const std::string sentence = error.what();
      ::_exit(sentence.find("permission denied") != std::string::npos &&
                      sentence.find(folder / "a") != std::string::npos
                  ? 42
                  : 1);
    }
  });
  ::chmod(folder.path().c_str(), 0755);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 42);
}

TEST(AtomicFile, RefusesWhatCannotBeAFile) {
  ScratchFolder folder;
  write_text(folder / "file", "x");
  EXPECT_HAS(refusal(TN_E_IO, [&] { AtomicFile file(folder.path()); }), "folder");
  EXPECT_HAS(refusal(TN_E_IO, [&] { AtomicFile file(""); }), "folder");
  EXPECT_HAS(refusal(TN_E_IO, [&] { AtomicFile file(folder / "file/below"); }), "is a file and not a folder");
  EXPECT_HAS(refusal(TN_E_NOT_FOUND, [&] { AtomicFile file(folder / "none/a"); }), "none/a");
  EXPECT_HAS(refusal(TN_E_NOT_FOUND, [&] { AtomicFile file("/proc/tenon-cannot-write"); }), "/proc/tenon-cannot-write");
  EXPECT_HAS(refusal(TN_E_IO, [&] { AtomicFile file(folder / std::string(300, 'n')); }), "too long");
}

TEST(AtomicFile, TheLongestNameWorks) {
  ScratchFolder folder;
  const std::string path = folder / std::string(255, 'n');
  write_file_atomically(path, "x");
  EXPECT_EQ(read_text(path), "x");
}

TEST(AtomicFile, CommitsOnce) {
  ScratchFolder folder;
  AtomicFile file(folder / "a");
  file.commit();
  refusal(TN_E_STATE, [&] { file.commit(); });
}

TEST(AtomicFolder, AppearsWholeWithItsTree) {
  ScratchFolder folder;
  AtomicFolder output(folder / "step-1/");
  write_text(output.path() + "/a", "1");
  std::filesystem::create_directory(output.path() + "/sub");
  write_text(output.path() + "/sub/b", "2");
  EXPECT_FALSE(std::filesystem::exists(folder / "step-1"));
  EXPECT_TRUE(is_temporary_name(std::filesystem::path(output.path()).filename().string()));
  output.commit();
  EXPECT_EQ(read_text(folder / "step-1/a"), "1");
  EXPECT_EQ(read_text(folder / "step-1/sub/b"), "2");
  EXPECT_EQ(folder.entries(), 1u);
  refusal(TN_E_STATE, [&] { output.commit(); });
}

TEST(AtomicFolder, WithoutCommitLeavesNoTrace) {
  ScratchFolder folder;
  {
    AtomicFolder output(folder / "x");
    write_text(output.path() + "/a", "1");
  }
  EXPECT_EQ(folder.entries(), 0u);
}

TEST(AtomicFolder, AnExistingTargetIsReplacedOnlyWhenAsked) {
  ScratchFolder folder;
  std::filesystem::create_directory(folder / "x");
  write_text(folder / "x/old", "old");
  {
    AtomicFolder output(folder / "x");
    write_text(output.path() + "/new", "new");
    EXPECT_HAS(refusal(TN_E_CONFLICT, [&] { output.commit(); }), folder / "x");
    EXPECT_TRUE(std::filesystem::exists(folder / "x/old"));
    output.commit_replacing();
  }
  EXPECT_EQ(read_text(folder / "x/new"), "new");
  EXPECT_FALSE(std::filesystem::exists(folder / "x/old"));
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(AtomicFolder, RefusesImpossibleTargets) {
  ScratchFolder folder;
  write_text(folder / "file", "x");
  refusal(TN_E_CONFLICT, [&] { AtomicFolder output(folder / "file"); });
  refusal(TN_E_NOT_FOUND, [&] { AtomicFolder output(folder / "none/x"); });
  refusal(TN_E_ARGUMENT, [&] { AtomicFolder output(""); });
  refusal(TN_E_ARGUMENT, [&] { AtomicFolder output("/"); });
  refusal(TN_E_ARGUMENT, [&] { AtomicFolder output(folder / ".."); });
}

TEST(TemporaryName, IsTold) {
  EXPECT_TRUE(is_temporary_name(".model.safetensors.tmp-123-0-00abcdef"));
  for (const char* name : {"model.safetensors", ".tmp-1-0-0", "notes.tmp-old", "a.tmp-1-2", "a.tmp-x-0-0", ""}) {
    EXPECT_FALSE(is_temporary_name(name)) << name;
  }
}

}  // namespace
}  // namespace tenon
