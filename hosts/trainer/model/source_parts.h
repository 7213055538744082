// What reading a tensor means, whatever kind of file it is in.
#pragma once

#include <string>
#include <vector>

#include "hosts/trainer/engine/tensor.h"

namespace tenon::trainer {

inline constexpr int64_t kStageBytes = 64 << 20;  // a tensor passes through the device in pieces of at most this

// Throws Error, naming both shapes, where a file's tensor is not of the shape that the configuration asks for.
void check_shape(const std::string& path, const std::string& name, const std::vector<int64_t>& shape, const Tensor& to);

}  // namespace tenon::trainer
