/* Tenon ABI 0.9: status codes.
 *
 * Every fallible function of the ABI returns an int32_t of this table. Code, name and default message live in one list, so that
 * they cannot drift apart. The sentence that explains a particular failure does not travel in the code: whoever fails reports it
 * through tn_host.error (plugins) or it is read with tn_last_error (hosts), per thread. */
#ifndef TENON_STATUS_H
#define TENON_STATUS_H

#include <stdint.h>

/*      name                 code  message */
#define TN_STATUS_LIST(X)                                                                                    \
  X(TN_OK, 0, "done")                                                                                        \
  X(TN_DEGRADED, 1, "done, with a stated loss: a factorization failed and the previous basis was kept")      \
  X(TN_E_ARGUMENT, -1, "an argument is outside its documented range")                                        \
  X(TN_E_VERSION, -2, "the two sides share no ABI version")                                                  \
  X(TN_E_UNSUPPORTED, -3, "this combination of device, dtype and shape is not offered")                      \
  X(TN_E_MEMORY, -4, "out of memory, or over the memory limit")                                              \
  X(TN_E_DEVICE, -5, "the device or its driver failed")                                                      \
  X(TN_E_IO, -6, "a file could not be read or written")                                                      \
  X(TN_E_FORMAT, -7, "a file or a blob is damaged or not of the expected format")                            \
  X(TN_E_NOT_FOUND, -8, "no such plugin, tensor, key or file")                                               \
  X(TN_E_CONFLICT, -9, "the mix is not possible, or the thing exists already")                               \
  X(TN_E_NUMERIC, -10, "NaN or Inf where a finite number is needed")                                         \
  X(TN_E_STATE, -11, "the call is not allowed in this state")                                                \
  X(TN_E_TRUST, -12, "the file is not listed in the catalog or differs from what was installed")             \
  X(TN_E_CANCELLED, -13, "stopped at the caller's request")                                                  \
  X(TN_E_INTERNAL, -14, "a defect: please report it")

enum {
#define TN_STATUS_CODE(name, code, message) name = code,
  TN_STATUS_LIST(TN_STATUS_CODE)
#undef TN_STATUS_CODE
};

#endif
