/* Tenon ABI 0.9: extension org.tenon.inner/1 of hosts: an optimizer that wraps another one.
 *
 * The user names the wrapped optimizer as a spec in a hyper-parameter called `inner`, of type string ("adamw:beta2=0.95"); the host
 * looks there when it checks the mix, so that the relations of both hold. The wrapper binds the inner optimizer to the parameters that
 * it lets through, declares its state slots as its own (a wrapper's own slots come first), and calls plan, prepare, apply, finish, save
 * and load as a host would. Wrappers may wrap wrappers. Used by lisa, mkor, flashdp. */
#ifndef TENON_INNER_H
#define TENON_INNER_H

#include "tenon/optimizer.h"

#define TN_EXT_INNER "org.tenon.inner/1"

typedef struct tn_inner {
  uint32_t struct_size;
  uint32_t reserved;
  /* Creates the optimizer that `spec` names, validated by the host. Callable while the wrapper's own create() runs, on its thread. The
   * instance belongs to the caller, who ends it with its api's destroy; *plugin lives as long as the library is mapped. TN_E_NOT_FOUND and
   * TN_E_ARGUMENT come with the sentence that the user would see for that spec. */
  int32_t (*open)(const tn_host* host, const char* spec, const tn_plugin** plugin, tn_optimizer** self);
} tn_inner; /* fence inner/1 */

#endif
