// What lies between the kernels and what runs them, so that the same source runs on a GPU and on a CPU.
//
// A kernel is a struct with its arguments and `void operator()(const Block&) const`. Its body is a sequence of phases:
//
//     block.phase([&](int thread) { … });     // what one thread does; a barrier follows
//
// and nothing but shared memory lives from one phase to the next. nvcc makes of it what one would write by hand. A
// plain C++ compiler makes loops over blocks and threads, in any order: that is how the kernels are tested where there
// is no GPU (tests/ops/test_cuda_on_host.py).
#pragma once

#include <cstdint>
#include <cstring>

#include "problem.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>
#define DYNCONV_DEVICE __device__ __forceinline__
#define DYNCONV_HOST_DEVICE __host__ __device__ __forceinline__
#else
#include <cmath>
#include "on_host.h"
#define DYNCONV_DEVICE inline
#define DYNCONV_HOST_DEVICE inline
#endif

namespace dynconv_mt::cuda {

constexpr int kWarp = 32;
constexpr int kMaxShared = 96 * 1024;  // bytes of a block; every GPU from sm_80 on has them

struct Block {
  int64_t index;
  int num_threads;
  char* shared;

  template <typename Body>
  DYNCONV_DEVICE void phase(const Body& body) const {
#ifdef __CUDACC__
    body(static_cast<int>(threadIdx.x));
    __syncthreads();
#else
    on_host::run_threads(num_threads, body);
#endif
  }

  // The same for warps: body(warp) runs once for each, with all its lanes, which share the matrices of mma.h.
  template <typename Body>
  DYNCONV_DEVICE void phase_of_warps(const Body& body) const {
#ifdef __CUDACC__
    body(static_cast<int>(threadIdx.x) / kWarp);
    __syncthreads();
#else
    on_host::run_threads(num_threads / kWarp, body);
#endif
  }

  // Ends when everything that `copy_async` began has arrived.
  DYNCONV_DEVICE void wait_for_copies() const {
#ifdef __CUDACC__
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
#else
    on_host::finish_copies();
#endif
  }
};

// Within a phase of warps: body(lane) for every lane, with barriers for the warp before and behind.
template <typename Body>
DYNCONV_DEVICE void on_lanes(const Body& body) {
#ifdef __CUDACC__
  __syncwarp();
  body(static_cast<int>(threadIdx.x) % kWarp);
  __syncwarp();
#else
  on_host::run_threads(kWarp, body);
#endif
}

// Begins to copy 16 bytes, aligned to 16 bytes, from global to shared memory.
DYNCONV_DEVICE void copy_async(void* shared, const void* global) {
#ifdef __CUDACC__
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(__cvta_generic_to_global(global)) : "memory");
#else
  on_host::begin_copy(shared, global, 16);
#endif
}

struct Grid {
  int64_t num_blocks;
  int num_threads;
  int shared_bytes;
};

#ifdef __CUDACC__

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kMaxThreads, Kernel::kMinBlocks) run(const __grid_constant__ Kernel kernel) {
  extern __shared__ __align__(128) char shared[];
  kernel(Block{static_cast<int64_t>(blockIdx.x), static_cast<int>(blockDim.x), shared});
}

template <typename Kernel>
Error launch(const Kernel& kernel, const Grid& grid, Stream stream) {
  constexpr int kWithoutAsking = 48 * 1024;
  constexpr int64_t kMaxBlocks = (int64_t{1} << 31) - 1;
  if (grid.num_blocks > kMaxBlocks) return "more than 2^31 - 1 blocks of threads";
  cudaError_t error = cudaSuccess;
  if (grid.shared_bytes > kWithoutAsking) {  // as much as any launch asks for: other threads launch the same kernel
    error = cudaFuncSetAttribute(run<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxShared);
  }
  if (error == cudaSuccess) {
    const auto num_blocks = static_cast<unsigned>(grid.num_blocks);
    run<<<num_blocks, grid.num_threads, grid.shared_bytes, static_cast<cudaStream_t>(stream)>>>(kernel);
  }
  error = cudaGetLastError();  // and forgets it
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

#else

template <typename Kernel>
Error launch(const Kernel& kernel, const Grid& grid, Stream) {
  if (grid.num_threads > Kernel::kMaxThreads) return "more threads than the kernel was compiled for";
  for (int64_t index = 0; index < grid.num_blocks; ++index) {
    on_host::SharedMemory shared(grid.shared_bytes);
    kernel(Block{index, grid.num_threads, shared.data});
  }
  return nullptr;
}

#endif

template <typename T>
DYNCONV_HOST_DEVICE T least(T a, T b) {
  return b < a ? b : a;
}

template <typename T>
DYNCONV_HOST_DEVICE T most(T a, T b) {
  return a < b ? b : a;
}

template <typename T>
DYNCONV_HOST_DEVICE T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

}  // namespace dynconv_mt::cuda
