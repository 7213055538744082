/* Tenon ABI 0.9: extension org.tenon.host-memory/1 of devices: memory of the host that the device copies to and from by itself.
 *
 * Copies between a device and ordinary host memory may stop the caller until they are done, which serialises what was meant to run beside
 * the computation. Memory from here is page-locked, so that tn_device_api.copy on a stream of its own returns at once and runs beside
 * other streams. A device that computes in host memory offers nothing here; a host then takes memory as it likes. */
#ifndef TENON_HOST_MEMORY_H
#define TENON_HOST_MEMORY_H

#include "tenon/device.h"

#define TN_EXT_HOST_MEMORY "org.tenon.host-memory/1"

typedef struct tn_host_memory {
  uint32_t struct_size;
  uint32_t reserved;
  /* Aligned to TN_ALIGNMENT, readable and writable by the host, n_bytes > 0. TN_E_MEMORY when the system locks no more. The host counts
   * every byte. [any-thread] */
  int32_t (*alloc)(tn_device* device, uint64_t n_bytes, void** out);
  /* The copies that use it are done. [any-thread] */
  void (*free)(tn_device* device, void* memory);
} tn_host_memory; /* fence host-memory/1 */

#endif
