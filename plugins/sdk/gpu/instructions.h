// Instructions of matrix units and of what feeds them. A wave executes each as one; every lane holds a part of the operands, laid out as the
// vendors' manuals say: PTX ISA, "Matrix fragments for mma.m16n8k16" and "ldmatrix"; AMD CDNA ISA, V_MFMA_F32_16X16X16.
//
// TN_MATRIX_LANES: the lanes of a wave that has matrix units. TN_MATRIX_UNITS: whether what is being compiled has them; kernels have an empty
// body where it has not (RDNA, the host's pass), and has_matrix_units() keeps a host from launching them.
#pragma once

#include <type_traits>

#include "sdk/dtype.h"
#include "sdk/gpu/lane.h"
#include "sdk/gpu/runtime.h"
#include "tenon/host.h"

#if defined(TENON_EMULATED_WAVE)
#define TN_MATRIX_LANES TENON_EMULATED_WAVE
#define TN_MATRIX_UNITS 1
#include "sdk/gpu/emulated_instructions.h"
#else

#if defined(__HIP__)
#define TN_MATRIX_LANES 64
#if defined(__gfx90a__) || defined(__gfx940__) || defined(__gfx941__) || defined(__gfx942__) || defined(__gfx950__)
#define TN_MATRIX_UNITS 1
#endif
#else
#define TN_MATRIX_LANES 32
#if defined(__CUDA_ARCH__)  // 800 or more
#define TN_MATRIX_UNITS 1
#endif
#endif
#if !defined(TN_MATRIX_UNITS)
#define TN_MATRIX_UNITS 0
#endif

namespace tenon::sdk::gpu {

// sum + the product of four signed bytes with four, which no RDNA before gfx1011 has as an instruction.
TN_FN int32_t dot4(int32_t a, int32_t b, int32_t sum) {
#if defined(__CUDA_ARCH__)
  return __dp4a(a, b, sum);
#elif defined(__gfx906__) || defined(__gfx908__) || defined(__gfx90a__) || defined(__gfx940__) || defined(__gfx941__) || defined(__gfx942__) || \
    defined(__gfx1011__) || defined(__gfx1012__) || defined(__gfx1030__) || defined(__gfx1031__) || defined(__gfx1032__) || defined(__gfx1034__)
  return __builtin_amdgcn_sdot4(a, b, sum, false);
#elif defined(__gfx1100__) || defined(__gfx1101__) || defined(__gfx1102__) || defined(__gfx1103__)
  return __builtin_amdgcn_sudot4(true, a, true, b, sum, false);
#else
  for (int i = 0; i < 32; i += 8) sum += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
  return sum;
#endif
}

#if defined(__HIP__)

// Of the card that launches of a call go to, whichever the thread used last; without a call of that one. Asked once by each thread, since a card's
// properties take long to read.
inline bool has_matrix_units(const tn_exec* exec) {
  if (exec) choose_card_of(stream_of(exec->stream));
  static thread_local int asked = -1;
  static thread_local bool answer = false;
  int device = 0;
  (void)hipGetDevice(&device);
  if (device == asked) return answer;
  hipDeviceProp_t p{};
  answer = false;
  if (hipGetDeviceProperties(&p, device) == hipSuccess) {
    const std::string arch = p.gcnArchName, name = arch.substr(0, arch.find(':'));
    for (const char* known : {"gfx90a", "gfx940", "gfx941", "gfx942", "gfx950"}) answer = answer || name == known;
  }
  asked = device;
  return answer;
}

// There is no asynchronous copy: each is done when it is issued.
TN_FN void copy_async(void* to, const void* from, bool valid) {
  *static_cast<uint4*>(to) = valid ? *static_cast<const uint4*>(from) : uint4{0, 0, 0, 0};
}
TN_FN void end_copies() {}
template <int kPending>
TN_FN void wait_copies() {}
TN_FN float exp2(float x) { return ::exp2f(x); }

template <class T>
TN_FN uint32_t pack(float low, float high) {
  if constexpr (std::is_same_v<T, f16>)
    return std::bit_cast<uint16_t>(static_cast<_Float16>(low)) | static_cast<uint32_t>(std::bit_cast<uint16_t>(static_cast<_Float16>(high))) << 16;
  else
    return from_float<T>(low).bits | static_cast<uint32_t>(from_float<T>(high).bits) << 16;
}

// d += a · b: of A [16, 16] lane l has row l % 16, columns 4 (l / 16) + 0 … 3, of B the column l % 16 and those rows, of D the column l % 16
// and rows 4 (l / 16) + 0 … 3.
template <class T>
TN_FN void mfma_16x16x16(float (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[2]) {
#if TN_MATRIX_UNITS
  using Floats = float __attribute__((ext_vector_type(4)));
  Floats sum = {d[0], d[1], d[2], d[3]};
  if constexpr (std::is_same_v<T, bf16>) {
    using Values = short __attribute__((ext_vector_type(4)));
    sum = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(std::bit_cast<Values>(uint64_t{a[1]} << 32 | a[0]),
                                                    std::bit_cast<Values>(uint64_t{b[1]} << 32 | b[0]), sum, 0, 0, 0);
  } else {
    using Values = _Float16 __attribute__((ext_vector_type(4)));
    sum = __builtin_amdgcn_mfma_f32_16x16x16f16(std::bit_cast<Values>(uint64_t{a[1]} << 32 | a[0]),
                                                std::bit_cast<Values>(uint64_t{b[1]} << 32 | b[0]), sum, 0, 0, 0);
  }
  d[0] = sum[0], d[1] = sum[1], d[2] = sum[2], d[3] = sum[3];
#endif
}

#else  // CUDA

inline bool has_matrix_units(const tn_exec*) { return true; }  // the device refuses cards older than sm_80

// Shared memory as integers, whose lower bits address arithmetic may change.
using SharedAddress = uint32_t;
TN_FN SharedAddress shared_address(const void* p) {
#if defined(__CUDA_ARCH__)
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
#else
  return 0;
#endif
}

// Copies 16 bytes to shared memory, or zeros there; `from` is not read then.
TN_FN void copy_async(void* to, const void* from, bool valid) {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0) : "memory");
#endif
}
// Copies since the last call are one group.
TN_FN void end_copies() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Waits until at most the kPending newest groups of this thread are under way.
template <int kPending>
TN_FN void wait_copies() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

TN_FN float exp2(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return x;
#endif
}

template <class T>
TN_FN uint32_t pack(float low, float high) {
  uint32_t r = 0;
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<T, bf16>)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
#endif
  return r;
}

// Four matrices of 8 × 8 elements of 16 bits; lane l names row l % 8 of matrix l / 8, 16 bytes. Of each matrix lane l receives row l / 4,
// columns 2 (l % 4) and the next; transposed: column l / 4 of those rows.
template <bool kTransposed>
TN_FN void load_matrices(uint32_t (&r)[4], SharedAddress row) {
#if defined(__CUDA_ARCH__)
  if constexpr (kTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row));
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row));
#endif
}

// d += a · b. With g = lane / 4 and t = 2 (lane % 4): of A [16, 16] rows g and g + 8 at columns t, then both at t + 8; of B [16, 8] column g
// at rows t and t + 8; of D [16, 8] row g at columns t, then row g + 8. A register holds the element at t and the next.
template <class T>
TN_FN void mma_16x8x16(float* d, const uint32_t (&a)[4], const uint32_t* b) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<T, bf16>)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

#endif

}  // namespace tenon::sdk::gpu

#endif
