// tn_tensor is DLTensor: every size, offset and code is compared with the packaged dlpack.h.
#include <dlpack/dlpack.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstring>

#include "tenon/tensor.h"

namespace {

#define SAME_FIELD(ours, a, theirs, b) \
  static_assert(offsetof(ours, a) == offsetof(theirs, b) && sizeof(ours::a) == sizeof(theirs::b))

static_assert(sizeof(tn_tensor) == sizeof(DLTensor) && alignof(tn_tensor) == alignof(DLTensor));
SAME_FIELD(tn_tensor, data, DLTensor, data);
SAME_FIELD(tn_tensor, device, DLTensor, device);
SAME_FIELD(tn_tensor, ndim, DLTensor, ndim);
SAME_FIELD(tn_tensor, dtype, DLTensor, dtype);
SAME_FIELD(tn_tensor, shape, DLTensor, shape);
SAME_FIELD(tn_tensor, strides, DLTensor, strides);
SAME_FIELD(tn_tensor, byte_offset, DLTensor, byte_offset);
static_assert(sizeof(tn_dtype) == sizeof(DLDataType) && sizeof(tn_device_id) == sizeof(DLDevice));
SAME_FIELD(tn_dtype, code, DLDataType, code);
SAME_FIELD(tn_dtype, bits, DLDataType, bits);
SAME_FIELD(tn_dtype, lanes, DLDataType, lanes);
SAME_FIELD(tn_device_id, type, DLDevice, device_type);
SAME_FIELD(tn_device_id, index, DLDevice, device_id);
static_assert(int{TN_INT} == kDLInt && int{TN_UINT} == kDLUInt && int{TN_FLOAT} == kDLFloat &&
              int{TN_BFLOAT} == kDLBfloat);
static_assert(int{TN_OPAQUE} == kDLOpaqueHandle);
static_assert(int{TN_CPU} == kDLCPU && int{TN_CUDA} == kDLCUDA && int{TN_CUDA_HOST} == kDLCUDAHost);
static_assert(int{TN_ROCM} == kDLROCM && int{TN_ROCM_HOST} == kDLROCMHost);

TEST(DLPack, ATensorReadsTheSameFromBothSides) {
  float data[6] = {1, 2, 3, 4, 5, 6};
  int64_t shape[2] = {2, 3}, strides[2] = {3, 1};
  const DLTensor theirs = {data, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, shape, strides, 8};
  tn_tensor ours;
  std::memcpy(&ours, &theirs, sizeof ours);
  EXPECT_EQ(ours.data, data);
  EXPECT_EQ(ours.device.type, TN_CPU);
  EXPECT_EQ(ours.ndim, 2);
  EXPECT_EQ(ours.dtype.code, TN_FLOAT);
  EXPECT_EQ(ours.dtype.bits, 32);
  EXPECT_EQ(ours.shape[1], 3);
  EXPECT_EQ(ours.strides[0], 3);
  EXPECT_EQ(ours.byte_offset, 8u);
}

}  // namespace
