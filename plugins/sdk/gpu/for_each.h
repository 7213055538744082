// for_each and for_each_block as kernels on the stream of a call.
#pragma once

#include "sdk/gpu/block.h"
#include "sdk/gpu/runtime.h"

namespace tenon::sdk {

namespace gpu {

inline constexpr int64_t kThreads = 256;         // of a block
inline constexpr int64_t kMaxBlocks = 1 << 22;  // of a launch; each takes several in turn beyond that
inline constexpr int64_t kPlainShared = 48 << 10;  // bytes that need no leave

#if defined(TENON_EMULATED_WAVE)

template <class F>
void launch_blocks(const tn_exec* exec, int64_t blocks, int64_t threads, int64_t shared, const F& f) {
  constexpr int64_t kMostShared = kWave == 64 ? 64 << 10 : 99 << 10;  // of AMD's cards; of sm_86 and sm_89
  if (shared > kMostShared) fail(TN_E_INTERNAL, "a kernel asks for " + std::to_string(shared) + " bytes of shared memory");
  emulate(exec, blocks, threads, shared, [f](int64_t index, void* memory) { f(Block{index, memory}); });
}
template <class F>
void launch_each(const tn_exec* exec, int64_t n, const F& f) {
  submit(exec, [n, f] {
    for (int64_t i = 0; i < n; ++i) f(i);
  });
}

#else

template <class F>
__global__ void __launch_bounds__(kThreads) block_kernel(int64_t blocks, F f) {
  extern __shared__ __align__(1024) unsigned char tn_shared_memory[];
  for (int64_t b = blockIdx.x; b < blocks; b += gridDim.x) f(Block{b, tn_shared_memory});
}
// Functors that name their number of threads, kThreads, may use all registers that so many leave them. One block a block, from `first` on:
// in a loop over blocks a compiler would keep what all of them share in registers.
template <class F>
__global__ void __launch_bounds__(F::kThreads) heavy_block_kernel(int64_t first, F f) {
  extern __shared__ __align__(1024) unsigned char tn_shared_memory[];
  f(Block{first + blockIdx.x, tn_shared_memory});
}
template <class F>
__global__ void __launch_bounds__(kThreads) each_kernel(int64_t n, F f) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += static_cast<int64_t>(gridDim.x) * blockDim.x) f(i);
}
inline unsigned grid(int64_t blocks) { return static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks); }

template <class Kernel>
void need_shared(Kernel* kernel, int64_t bytes) {
  if (bytes <= kPlainShared) return;
  if (bytes > shared_limit())
    fail(TN_E_UNSUPPORTED, "a kernel needs " + std::to_string(bytes) + " bytes of shared memory where this GPU has " +
                               std::to_string(shared_limit()) + "; choose smaller blocks");
  require(allow_shared(kernel, bytes), "reserving shared memory");
}

template <class F>
void launch_blocks(const tn_exec* exec, int64_t blocks, int64_t threads, int64_t shared, const F& f) {
  if (blocks <= 0) return;
  const unsigned width = static_cast<unsigned>(threads);
  choose_card_of(stream_of(exec->stream));
  if constexpr (requires { F::kThreads; }) {
    need_shared(heavy_block_kernel<F>, shared);
    for (int64_t first = 0; first < blocks; first += kMaxBlocks)
      heavy_block_kernel<<<grid(blocks - first), width, static_cast<size_t>(shared), stream_of(exec->stream)>>>(first, f);
  } else {
    need_shared(block_kernel<F>, shared);
    block_kernel<<<grid(blocks), width, static_cast<size_t>(shared), stream_of(exec->stream)>>>(blocks, f);
  }
  require(last_error(), "a kernel launch");
}
template <class F>
void launch_each(const tn_exec* exec, int64_t n, const F& f) {
  choose_card_of(stream_of(exec->stream));
  each_kernel<<<grid((n + kThreads - 1) / kThreads), kThreads, 0, stream_of(exec->stream)>>>(n, f);
  require(last_error(), "a kernel launch");
}

#endif

}  // namespace gpu

template <class F>
void for_each(const tn_exec* exec, int64_t n, F f) {
  if (n > 0) gpu::launch_each(exec, n, f);
}

// `elements`: what one block handles; few need few threads. `shared`: the bytes used of the Shared at most.
template <int64_t Shared = 0, class F>
void for_each_block(const tn_exec* exec, int64_t blocks, F f, int64_t elements = kSerialBelow, int64_t shared = Shared) {
  if (blocks <= 0) return;
#if defined(TENON_EMULATED_WAVE)
  const int64_t threads = 2 * gpu::kWave;  // enough to tell waves from blocks
  (void)elements;
#else
  const int64_t threads = elements >= gpu::kThreads ? gpu::kThreads : elements > 64 ? 128 : 64;
#endif
  gpu::launch_blocks(exec, blocks, threads, gpu::kReduceBytes + shared, f);
}

}  // namespace tenon::sdk
