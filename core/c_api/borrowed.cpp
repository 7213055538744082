#include "core/c_api/borrowed.h"

#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>

#include "core/error.h"

namespace tenon::c_api {
namespace {

[[noreturn]] void refuse(const char* name, const std::string& why) {
  throw Error(TN_E_ARGUMENT, std::string(name) + " " + why);
}

std::string dtype_name(const tn_dtype& d) {
  static constexpr const char* kNames[] = {"int", "uint", "float", "opaque", "bfloat", "complex", "bool"};
  const std::string lanes = d.lanes == 1 ? "" : "x" + std::to_string(d.lanes);
  return (d.code < 7 ? kNames[d.code] : "code" + std::to_string(d.code) + "-") + std::to_string(d.bits) + lanes;
}

// Whether one byte can be read or written, asked of the system: touching a read-only or unmapped page ourselves would end
// the process. Where the system does not let us ask, the caller is believed.
bool accessible(char* byte, Access access) {
  char copy = 0;
  const iovec mine = {&copy, 1}, theirs = {byte, 1};
  if (process_vm_readv(getpid(), &mine, 1, &theirs, 1, 0) != 1) return errno != EFAULT;
  if (access == Access::kRead) return true;
  return process_vm_writev(getpid(), &mine, 1, &theirs, 1, 0) == 1 || errno != EFAULT;
}

}  // namespace

void check_borrowed(const tn_session& session, const tn_tensor& t, const char* name, Access access) {
  if (t.ndim < 0 || t.ndim > 4) refuse(name, "has " + std::to_string(t.ndim) + " dimensions; 0 to 4 are possible");
  if (t.ndim > 0 && (!t.shape || !t.strides)) refuse(name, "has no shape or no strides; state both, in elements");
  const int64_t item = t.dtype.bits / 8;
  if (t.dtype.lanes != 1 || (item != 1 && item != 2 && item != 4 && item != 8))
    refuse(name, "has elements of the type " + dtype_name(t.dtype) + "; they have 8, 16, 32 or 64 bits and one lane");
  int64_t first = 0, last = 0;  // bytes from the start to the lowest and highest element
  bool empty = false;
  for (int32_t i = 0; i < t.ndim; ++i) {
    if (t.shape[i] < 0) refuse(name, "has the size " + std::to_string(t.shape[i]) + " in dimension " + std::to_string(i));
    if (t.shape[i] == 0) empty = true;
    int64_t reach = 0;
    if (__builtin_mul_overflow(std::max<int64_t>(t.shape[i] - 1, 0), t.strides[i], &reach) || __builtin_mul_overflow(reach, item, &reach) ||
        __builtin_add_overflow(reach < 0 ? first : last, reach, reach < 0 ? &first : &last)) {
      refuse(name, "has sizes and strides that reach beyond any memory");
    }
  }
  const tn_device_id here = session.device.id();
  if (t.device.type != here.type || (here.type != TN_CPU && t.device.index != here.index)) {
    refuse(name, "lies on device " + std::to_string(t.device.type) + ":" + std::to_string(t.device.index) + " but the session on " +
                     std::to_string(here.type) + ":" + std::to_string(here.index) + "; copy it there");
  }
  if (empty) return;
  if (!t.data) refuse(name, "has elements but no memory");
  char* const data = static_cast<char*>(t.data) + t.byte_offset;
  if (reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(item) != 0)
    refuse(name, "is not aligned to its elements of " + std::to_string(item) + " bytes; copy it into memory that is");
  if (here.type != TN_CPU) return;
  for (char* const byte : {data + first, data + last + item - 1}) {
    if (!accessible(byte, access)) {
      refuse(name, access == Access::kWrite ? "lies in memory that cannot be written; give writable memory"
                                            : "lies in memory that cannot be read; give memory of this process");
    }
  }
}

void check_dtype(const tn_tensor& tensor, const tn_dtype& dtype, const char* name, const char* why) {
  const tn_dtype& d = tensor.dtype;
  if (d.code == dtype.code && d.bits == dtype.bits && d.lanes == dtype.lanes) return;
  refuse(name, "has elements of the type " + dtype_name(d) + ", not " + dtype_name(dtype) + ", " + why);
}

}  // namespace tenon::c_api
