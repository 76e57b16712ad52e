// GPU threads as coroutines: who runs, who waits for whom, and what a threadgroup or simdgroup does together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "machine.h"

namespace host {

constexpr unsigned SIMD_WIDTH = 32;
constexpr unsigned MAX_THREADS = 1024;
constexpr size_t STACK_BYTES = 512 * 1024;
constexpr uint64_t THREADGROUP_BYTES = 32 * 1024;

struct Grid {
  Triple threads, group;
};

// Runs the launch once. `seed` 0 takes groups and threads in their natural order, any other value shuffles them.
void run_grid(KernelEntry kernel, void* const* arguments, const Grid& grid, uint64_t seed);

// The running thread's position; null between threads.
const Position* current_position();
bool in_stack_guard(uintptr_t address);

}  // namespace host
