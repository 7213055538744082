// Whatever was thrown, as an Error.
#pragma once

#include "core/error.h"

namespace tenon {

// The exception in flight as an Error: itself where it is one; else memory that ran out, what the file system refused, or, with its words made clean, a
// defect. Only within a catch block.
Error current_error();

}  // namespace tenon
