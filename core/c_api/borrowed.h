// Tensors of the caller, looked at before a plugin sees them: a wrong one gets a sentence, not a crash.
#pragma once

#include "core/c_api/objects.h"

namespace tenon::c_api {

enum class Access { kRead, kWrite };

// Throws TN_E_ARGUMENT, beginning with `name`, where the tensor has impossible sizes, no memory, memory of another device, memory that is
// not aligned to its element, or memory that this process cannot read or write as the call will.
void check_borrowed(const tn_session& session, const tn_tensor& tensor, const char* name, Access access);

// Throws where the dtype is another; `why` ends the sentence: "which was bound".
void check_dtype(const tn_tensor& tensor, const tn_dtype& dtype, const char* name, const char* why);

}  // namespace tenon::c_api
