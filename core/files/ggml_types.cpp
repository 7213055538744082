#include "core/files/ggml_types.h"

namespace tenon {
namespace {

constexpr GgmlType kTypes[] = {
    {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},      {3, "Q4_1", 32, 20},
    {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},      {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 36},
    {10, "Q2_K", 256, 84},    {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},
    {14, "Q6_K", 256, 210},   {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66}, {17, "IQ2_XS", 256, 74},
    {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},   {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},
    {22, "IQ2_S", 256, 82},   {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},
    {26, "I32", 1, 4},        {27, "I64", 1, 8},        {28, "F64", 1, 8},        {29, "IQ1_M", 256, 56},
    {30, "BF16", 1, 2},       {34, "TQ1_0", 256, 54},   {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17},
    {40, "NVFP4", 64, 36},
};

}  // namespace

const GgmlType* find_ggml_type(uint32_t id) {
  for (const GgmlType& type : kTypes) {
    if (type.id == id) return &type;
  }
  return nullptr;
}

const GgmlType* find_ggml_type(std::string_view name) {
  for (const GgmlType& type : kTypes) {
    if (type.name == name) return &type;
  }
  return nullptr;
}

const GgmlType& ggml_type_for_rows(const GgmlType& type, int64_t row) {
  if (row % type.block_elements == 0) return type;
  std::string_view name = "F16";
  if (row % 32 == 0) {
    name = "IQ4_NL";
    if (type.name == "Q4_K") name = "Q5_0";
    if (type.name == "Q5_K") name = "Q5_1";
    if (type.name == "Q6_K" || type.name == "Q8_K") name = "Q8_0";
  }
  return *find_ggml_type(name);
}

bool ggml_tensor_bytes(const GgmlType& type, const std::vector<int64_t>& shape, uint64_t& bytes) {
  const int64_t row = shape.empty() ? 1 : shape.back();
  if (row < 0 || row % type.block_elements != 0) return false;
  bool empty = row == 0;
  uint64_t total = type.block_bytes;
  const auto multiply = [&](uint64_t size) { return size == 0 || !__builtin_mul_overflow(total, size, &total); };
  if (!multiply(static_cast<uint64_t>(row) / type.block_elements)) return false;
  for (size_t i = 0; i + 1 < shape.size(); ++i) {
    if (shape[i] < 0 || !multiply(static_cast<uint64_t>(shape[i]))) return false;
    empty = empty || shape[i] == 0;
  }
  if (total > static_cast<uint64_t>(INT64_MAX)) return false;
  bytes = empty ? 0 : total;
  return true;
}

}  // namespace tenon
