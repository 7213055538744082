#include "core/plugins/sha256.h"

#include <fcntl.h>
#include <nettle/sha2.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "core/files/posix_io.h"

namespace tenon {
namespace {

void update(sha256_ctx& context, const void* data, size_t bytes) {
  sha256_update(&context, bytes, static_cast<const uint8_t*>(data));
}

std::string finish(sha256_ctx& context) {
  uint8_t digest[SHA256_DIGEST_SIZE];
  sha256_digest(&context, sizeof digest, digest);
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const uint8_t byte : digest) text += {kDigits[byte >> 4], kDigits[byte & 15]};
  return text;
}

}  // namespace

std::string sha256(ByteSpan bytes) {
  sha256_ctx context;
  sha256_init(&context);
  update(context, bytes.data(), bytes.size());
  return finish(context);
}

std::string sha256_of_file(const std::string& path) {
  const FileDescriptor fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) throw_io_error(path, "open the file", errno);
  constexpr size_t kPiece = 1 << 18;
  const auto buffer = std::make_unique<char[]>(kPiece);
  sha256_ctx context;
  sha256_init(&context);
  for (;;) {
    const ssize_t n = read(fd.get(), buffer.get(), kPiece);
    if (n == 0) return finish(context);
    if (n > 0) {
      update(context, buffer.get(), static_cast<size_t>(n));
    } else if (errno != EINTR) {
      throw_io_error(path, "read the file", errno);
    }
  }
}

}  // namespace tenon
