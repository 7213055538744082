// The tensor types that a GGUF file can hold, by the ids, names and block sizes of ggml. What is inside a block is a
// codec's affair.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace tenon {

struct GgmlType {
  uint32_t id;
  std::string_view name;    // "F32", "Q4_0", "Q4_K", "BF16"
  uint32_t block_elements;  // 1 for plain types
  uint32_t block_bytes;
};

// Null for an id or a name that is unknown or was withdrawn from the format.
const GgmlType* find_ggml_type(uint32_t id);
const GgmlType* find_ggml_type(std::string_view name);

// The type in which GGUF writers hold a matrix whose rows are `row` elements when `type` is asked for: `type` itself
// where rows are whole blocks, else the next larger type of blocks of 32 (Q4_K: Q5_0, Q5_K: Q5_1, Q6_K: Q8_0, other
// types: IQ4_NL), else F16.
const GgmlType& ggml_type_for_rows(const GgmlType& type, int64_t row);

// Bytes of a row-major tensor: whole blocks along the last axis. False when the shape is negative, its last axis is not
// a multiple of the block, or the product overflows (of the sizes that are not 0, so that every order of multiplying
// them is safe). Rank 0 is one element, which only a type without blocks can hold.
bool ggml_tensor_bytes(const GgmlType& type, const std::vector<int64_t>& shape, uint64_t& bytes);

}  // namespace tenon
