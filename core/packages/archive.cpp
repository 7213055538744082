#include "core/packages/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <memory>
#include <set>

#include "core/error.h"
#include "core/files/atomic_file.h"
#include "core/files/bytes.h"
#include "core/files/posix_io.h"
#include "core/packages/contents.h"
#include "core/plugins/manifest.h"

namespace tenon {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kBlock = 512, kRecord = 20 * kBlock;

uint64_t round_up(uint64_t n, uint64_t unit) {
  return (n + unit - 1) / unit * unit;
}

struct FreeReader {
  void operator()(archive* a) const { archive_read_free(a); }
};
struct FreeWriter {
  void operator()(archive* a) const { archive_write_free(a); }
};
struct FreeEntry {
  void operator()(archive_entry* e) const { archive_entry_free(e); }
};

class Reader {
 public:
  Reader(const std::string& path, const std::string& folder)
      : path_(path), folder_(folder), fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (!fd_) throw_io_error(path, "open the package", errno);
    struct stat status;
    if (fstat(fd_.get(), &status) != 0) throw_io_error(path, "look at the package", errno);
    if (!S_ISREG(status.st_mode)) refuse("this is not a plain file");
    size_ = static_cast<uint64_t>(status.st_size);
    archive_.reset(archive_read_new());
    if (!archive_) throw std::bad_alloc();
    archive_read_support_format_tar(archive_.get());
    if (archive_read_open_fd(archive_.get(), fd_.get(), 64 << 10) != ARCHIVE_OK) refuse("it is not a package of Tenon");
  }

  void read() {
    uint64_t expected = 2 * kBlock;  // the archive's end
    for (archive_entry* entry; next(entry);) {
      const std::string name = check_head(entry);
      const auto bytes = static_cast<uint64_t>(archive_entry_size(entry));
      copy(name, bytes);
      expected += kBlock + round_up(bytes, kBlock);
    }
    if (names_.empty()) refuse("it is not a package of Tenon, or an empty one");
    // Extended headers and whatever follows the end would show here.
    if (size_ != round_up(expected, kRecord))
      refuse("it has " + std::to_string(size_) + " bytes where its files need " +
             std::to_string(round_up(expected, kRecord)) + "; it was cut short, or something was added");
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    throw Error(TN_E_FORMAT, path_ + ": " + why + "; get the package again");
  }

  bool next(archive_entry*& entry) {
    const int result = archive_read_next_header(archive_.get(), &entry);
    if (result == ARCHIVE_EOF) return false;
    if (result != ARCHIVE_OK) refuse("it is not a package of Tenon, or it is damaged");
    return true;
  }

  std::string check_head(archive_entry* entry) {
    const char* const text = archive_entry_pathname(entry);
    const std::string name = text ? text : "";
    if (!plain_file_name(name) || name.size() > kMostNameBytes)
      refuse("it holds " + quote_name(name) + ", which is not the plain name of a file");
    if (archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry) || archive_entry_symlink(entry) ||
        archive_entry_sparse_count(entry) > 0)
      refuse(quote_name(name) + " in it is not a plain file");
    if (!names_.insert(name).second) refuse("it holds " + quote_name(name) + " twice");
    if (names_.size() > kMostFiles) refuse("it holds more than " + std::to_string(kMostFiles) + " files");
    const int64_t bytes = archive_entry_size_is_set(entry) ? archive_entry_size(entry) : -1;
    if (bytes < 0 || static_cast<uint64_t>(bytes) > most_bytes(name))
      refuse(quote_name(name) + " in it has " + std::to_string(bytes) + " bytes, and at most " +
             std::to_string(most_bytes(name)) + " are accepted");
    if (static_cast<uint64_t>(bytes) > size_) refuse(quote_name(name) + " in it is cut short");
    return name;
  }

  void copy(const std::string& name, uint64_t bytes) {
    const std::string to = fs::path(folder_) / name;
    const FileDescriptor out(open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644));
    if (!out) throw_io_error(to, "make the file", errno);
    uint64_t done = 0;
    for (;;) {
      const void* piece = nullptr;
      size_t n = 0;
      la_int64_t at = 0;
      const int result = archive_read_data_block(archive_.get(), &piece, &n, &at);
      if (result == ARCHIVE_EOF) break;
      if (result != ARCHIVE_OK || at != static_cast<la_int64_t>(done) || n > bytes - done)
        refuse(quote_name(name) + " in it is cut short or damaged");
      write_all(out.get(), {static_cast<const std::byte*>(piece), n}, to);
      done += n;
    }
    if (done != bytes) refuse(quote_name(name) + " in it is cut short");
  }

  std::string path_, folder_;
  FileDescriptor fd_;
  uint64_t size_ = 0;
  std::unique_ptr<archive, FreeReader> archive_;
  std::set<std::string> names_;
};

la_ssize_t write_piece(archive*, void* self, const void* bytes, size_t n) {
  auto& [file, failure] = *static_cast<std::pair<AtomicFile, std::exception_ptr>*>(self);
  try {
    file.write(ByteSpan{static_cast<const std::byte*>(bytes), n});
    return static_cast<la_ssize_t>(n);
  } catch (...) {
    failure = std::current_exception();
    return -1;
  }
}

void add(archive* to, const std::string& folder, const std::string& name) {
  const std::string path = fs::path(folder) / name;
  const FileDescriptor in(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  struct stat status;
  if (!in || fstat(in.get(), &status) != 0) throw_io_error(path, "read the file", errno);
  const std::unique_ptr<archive_entry, FreeEntry> entry(archive_entry_new());
  if (!entry) throw std::bad_alloc();
  archive_entry_set_pathname(entry.get(), name.c_str());
  archive_entry_set_filetype(entry.get(), AE_IFREG);
  archive_entry_set_perm(entry.get(), 0644);
  archive_entry_set_size(entry.get(), status.st_size);
  archive_entry_set_mtime(entry.get(), 0, 0);
  const auto written = [&](bool held) {
    if (!held) throw Error(TN_E_IO, path + ": the file cannot be packed (" + archive_error_string(to) + ')');
  };
  written(archive_write_header(to, entry.get()) == ARCHIVE_OK);
  std::string buffer(256 << 10, '\0');
  for (off_t left = status.st_size; left > 0;) {
    const ssize_t n = read(in.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_io_error(path, "read the file", errno);
    if (n == 0 || n > left)
      throw Error(TN_E_IO, path + ": the file changes while it is packed; try again when it is complete");
    written(archive_write_data(to, buffer.data(), static_cast<size_t>(n)) == n);
    left -= n;
  }
}

}  // namespace

void write_archive(const std::string& path, const std::string& folder, const std::vector<std::string>& names) {
  std::pair<AtomicFile, std::exception_ptr> out{AtomicFile(path), nullptr};
  const std::unique_ptr<archive, FreeWriter> to(archive_write_new());
  if (!to) throw std::bad_alloc();
  archive_write_set_format_ustar(to.get());
  archive_write_set_bytes_per_block(to.get(), kRecord);
  archive_write_set_bytes_in_last_block(to.get(), kRecord);
  try {
    if (archive_write_open(to.get(), &out, nullptr, write_piece, nullptr) != ARCHIVE_OK) throw std::bad_alloc();
    for (const std::string& name : names) add(to.get(), folder, name);
    if (archive_write_close(to.get()) != ARCHIVE_OK) throw Error(TN_E_IO, path + ": the package cannot be written");
  } catch (const Error&) {
    if (out.second) std::rethrow_exception(out.second);  // the file's own sentence
    throw;
  }
  out.first.commit();
}

void read_archive(const std::string& archive, const std::string& folder) {
  Reader(archive, folder).read();
}

}  // namespace tenon
