// The interface of a compiled kernel and the machine: the position of a thread, and the functions by which the stand-ins
// for Metal's headers call the machine. Memory accesses are not here: the compiler adds their calls (hooks.cpp).
#pragma once

namespace host {

struct Triple {
  unsigned x, y, z;
};

// The values of Metal's thread attributes, by their Metal names.
struct Position {
  Triple dispatch_threads_per_threadgroup, grid_origin, grid_size, thread_position_in_grid,
      thread_position_in_threadgroup, threadgroup_position_in_grid, threadgroups_per_grid, threads_per_grid,
      threads_per_threadgroup;
  unsigned dispatch_quadgroups_per_threadgroup, dispatch_simdgroups_per_threadgroup, quadgroup_index_in_threadgroup,
      quadgroups_per_threadgroup, simdgroup_index_in_threadgroup, simdgroups_per_threadgroup, thread_execution_width,
      thread_index_in_quadgroup, thread_index_in_simdgroup, thread_index_in_threadgroup, threads_per_simdgroup;
};

// Works on the values of all lanes of a simdgroup at once; `lanes[i]` points to lane i's own value and is its result.
using Combine = void (*)(void* const* lanes, unsigned count);

using KernelEntry = void (*)(void* const* buffers, const Position& position);

}  // namespace host

extern "C" {
// Memory of a `threadgroup` declaration, one address for all threads of a group. `declaration` is any address that
// identifies a declaration; `scalar` is the size of the smallest part that a thread may write for itself.
void* host_threadgroup_memory(const void* declaration, const char* name, unsigned long bytes, unsigned long alignment,
                              unsigned long scalar);
// Waits for all threads of the group; orders the memory that `flags` (metal::mem_flags) names.
void host_threadgroup_barrier(unsigned flags);
// Waits for all lanes of the simdgroup; orders the memory that `flags` names, among these lanes only.
void host_simdgroup_barrier(unsigned flags);
// Waits for all lanes of the simdgroup, then runs `combine` once for them.
void host_simd(void* value, host::Combine combine);
// Called by a Combine: `lane` addressed a lane that does not exist.
[[noreturn]] void host_no_such_lane(unsigned lane, unsigned wanted);
// Before an atomic operation on `address`.
void host_atomic(const void* address, unsigned long bytes, bool reads, bool writes);
}
