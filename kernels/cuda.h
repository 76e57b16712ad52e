// The parts of Metal that the kernels use, defined in CUDA: simdgroup = warp, threadgroup memory = shared memory.
// `build.py` removes Metal's address spaces from the text and declares threadgroup memory as __shared__.

#define METAL_FUNC __device__ __forceinline__

using uint = unsigned int;

#define thread_index_in_threadgroup (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z))
#define thread_index_in_simdgroup (thread_index_in_threadgroup % 32)
#define simdgroup_index_in_threadgroup (thread_index_in_threadgroup / 32)
#define threadgroup_position_in_grid blockIdx
#define threadgroups_per_grid gridDim

enum class mem_flags { mem_threadgroup };

__device__ __forceinline__ void threadgroup_barrier(mem_flags) {
  __syncthreads();
}

template <typename T>
__device__ __forceinline__ T simd_sum(T value) {
  for (int step = 16; step > 0; step /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, step);
  }
  return value;
}

template <typename T>
__device__ __forceinline__ T simd_max(T value) {
  for (int step = 16; step > 0; step /= 2) {
    value = max(value, __shfl_xor_sync(0xffffffffu, value, step));
  }
  return value;
}

template <typename T>
__device__ __forceinline__ T simd_min(T value) {
  for (int step = 16; step > 0; step /= 2) {
    value = min(value, __shfl_xor_sync(0xffffffffu, value, step));
  }
  return value;
}

using atomic_uint = unsigned int;

enum memory_order { memory_order_relaxed };

__device__ __forceinline__ uint atomic_fetch_add_explicit(atomic_uint* at, uint value, memory_order) {
  return atomicAdd(at, value);
}

__device__ __forceinline__ uint atomic_load_explicit(const atomic_uint* at, memory_order) {
  return *at;
}

__device__ __forceinline__ void atomic_store_explicit(atomic_uint* at, uint value, memory_order) {
  *at = value;
}
