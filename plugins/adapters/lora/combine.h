// Several LoRA adapters as one: org.tenon.combine/1.
#pragma once

#include "tenon/combine.h"

namespace tenon::lora {

extern const tn_combine kCombine;

}  // namespace tenon::lora
