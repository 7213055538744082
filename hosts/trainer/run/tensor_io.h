// Tensors of the device to and from files, in pieces, so that a large one needs no second copy on the host.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/files/safetensors.h"
#include "hosts/trainer/engine/engine.h"

namespace tenon::trainer {

FileDtype file_dtype(tn_dtype dtype);
std::vector<int64_t> file_shape(const Tensor& tensor);

// Hands the bytes of a contiguous tensor to `write`, in order.
void write_tensor(Engine& engine, const Tensor& tensor, const std::function<void(ByteSpan)>& write);
// The same converted to `dtype` (f32 or bf16) on the device.
void write_tensor_as(Engine& engine, const Tensor& tensor, tn_dtype dtype, const std::function<void(ByteSpan)>& write);

// Fills a tensor from the entry of the same dtype and shape; else throws Error naming the key.
void read_tensor(Engine& engine, const SafetensorsReader& reader, const std::string& key, const Tensor& to);

}  // namespace tenon::trainer
