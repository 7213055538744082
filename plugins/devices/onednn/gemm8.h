// Products of 8-bit integers (org.tenon.gemm8/1) through oneDNN, on VNNI where the CPU has it.
#pragma once

#include "tenon/gemm8.h"

namespace tenon::onednn {

const tn_gemm8* gemm8_table();

}  // namespace tenon::onednn
