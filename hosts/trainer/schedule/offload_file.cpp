// Memory → a file without a name, so that a killed run leaves nothing. The system does what runs beside the computation: it writes back what
// write() left with it, and reads ahead what prefetch() announces. A device with memory of its own copies through host memory, and waits.
#include <fcntl.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "core/error.h"
#include "hosts/trainer/schedule/offload_stages.h"

namespace tenon::trainer {
namespace {

constexpr long kTmpfs = 0x01021994, kRamfs = 0x858458f6;  // statfs(2): file systems that are memory
constexpr int64_t kPage = 4096;

class FileStage : public ActivationStage {
 public:
  FileStage(Engine& engine, const std::string& folder) : engine_(engine), folder_(folder) {
    if (engine.dry()) return;
    struct statfs system {};
    if (::statfs(folder.c_str(), &system) == 0 && (system.f_type == kTmpfs || system.f_type == kRamfs))
      throw Error(TN_E_ARGUMENT, "--offload-dir " + folder + " is a file system in memory, so nothing would be gained; choose a folder on a disk");
    file_ = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (file_ < 0)
      throw Error(TN_E_IO, "--offload-dir " + folder + " cannot hold a file of saved activations: " + std::strerror(errno) + "; choose a folder that you may write");
  }
  ~FileStage() override {
    if (file_ >= 0) ::close(file_);
  }

  std::unique_ptr<Stowed> stow(const SavedTag&, Tensor tensor) override {
    auto item = std::make_unique<Item>(*this, tensor);
    if (!engine_.dry()) write(tensor, item->at);
    return item;
  }
  uint64_t peak_bytes() const override { return static_cast<uint64_t>(peak_); }

 private:
  struct Item : Stowed {
    FileStage& stage;
    Tensor like;
    int64_t at;
    Item(FileStage& s, const Tensor& t) : stage(s), like({}, nullptr, t.device(), t.dtype(), t.shape(), t.ndim()), at(s.take(t.bytes())) {}
    ~Item() override { stage.give(at, like.bytes()); }
    void prefetch() override {
      if (stage.file_ >= 0) (void)::posix_fadvise(stage.file_, at, like.bytes(), POSIX_FADV_WILLNEED);
    }
    Tensor restore() override {
      const Tensor back = stage.engine_.empty(Category::kActivations, like.dtype(), like.shape(), like.ndim());
      if (!stage.engine_.dry()) stage.read(at, back);
      return back;
    }
  };

  bool in_host_memory() const { return engine_.id().type == TN_CPU; }
  char* staging(int64_t bytes) {
    if (staging_.size() < static_cast<size_t>(bytes)) staging_.resize(static_cast<size_t>(bytes));
    return staging_.data();
  }
  void write(const Tensor& from, int64_t at) {
    const int64_t n = from.bytes();
    const char* data = from.as<char>();
    if (in_host_memory()) {
      engine_.synchronize();
    } else {
      engine_.download(from, staging(n));
      data = staging_.data();
    }
    transfer(data, at, n, "written to", ::pwrite);
    (void)::sync_file_range(file_, at, n, SYNC_FILE_RANGE_WRITE);  // begins to write, waits for nothing
  }
  void read(int64_t at, const Tensor& to) {
    const int64_t n = to.bytes();
    if (in_host_memory()) return transfer(to.as<char>(), at, n, "read from", ::pread);
    transfer(staging(n), at, n, "read from", ::pread);
    engine_.upload(staging_.data(), to);
    engine_.synchronize();
  }

  template <class Byte, class Call>
  void transfer(Byte* data, int64_t at, int64_t bytes, const char* verb, Call&& call) {
    for (int64_t done = 0; done < bytes;) {
      const ssize_t n = call(file_, data + done, static_cast<size_t>(bytes - done), at + done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0)
        throw Error(TN_E_IO, "saved activations cannot be " + std::string(verb) + " a file in " + folder_ + " (" + format_bytes(static_cast<uint64_t>(peak_)) +
                                 " needed at most): " + (n < 0 ? std::strerror(errno) : "it is too short") + "; choose another --offload-dir");
      done += n;
    }
  }

  // A place in the file: one that was given back by a tensor of the same size, or the end.
  int64_t take(int64_t bytes) {
    const int64_t rounded = (bytes + kPage - 1) / kPage * kPage;
    std::vector<int64_t>& holes = holes_[rounded];
    live_ += rounded, peak_ = std::max(peak_, live_);
    if (holes.empty()) return std::exchange(end_, end_ + rounded);
    const int64_t at = holes.back();
    holes.pop_back();
    return at;
  }
  void give(int64_t at, int64_t bytes) {
    const int64_t rounded = (bytes + kPage - 1) / kPage * kPage;
    // What nobody will read need not be written either.
    if (file_ >= 0) (void)::fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, rounded);
    holes_[rounded].push_back(at), live_ -= rounded;
  }

  Engine& engine_;
  std::string folder_;
  int file_ = -1;
  int64_t end_ = 0, live_ = 0, peak_ = 0;
  std::map<int64_t, std::vector<int64_t>> holes_;  // by size
  std::vector<char> staging_;  // a copy on the host, where the device has memory of its own
};

}  // namespace

std::unique_ptr<ActivationStage> file_stage(Engine& engine, const std::string& folder) { return std::make_unique<FileStage>(engine, folder); }

}  // namespace tenon::trainer
