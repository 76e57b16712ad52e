#include "threads.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <sys/mman.h>
#include <unordered_map>

#include "coroutine.h"
#include "memory.h"
#include "report.h"

namespace host {

namespace {

enum State { RUNNABLE, AT_SIMD, AT_BARRIER, DONE };

struct Thread {
  void* stack_pointer;
  State state;
  Position position;
  // Where it waits:
  uint64_t site;      // identifies a call with all its callers
  const void* frame;  // for reports
  unsigned flags;     // of a barrier
  void* value;        // of a simdgroup operation
  Combine combine;
};

Thread threads[MAX_THREADS];
unsigned thread_count;
Thread* running;
void* scheduler;

KernelEntry kernel;
void* const* arguments;

uint64_t epochs[SPACES] = {1, 1};
unsigned sub_epochs[SPACES][MAX_THREADS / SIMD_WIDTH];

std::unordered_map<const void*, Region*> threadgroup_regions;
uint64_t threadgroup_bytes = 0;

// ---- order ----

struct Shuffler {
  uint64_t state;

  uint64_t next() {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
  }

  // 0 .. count-1, shuffled unless the seed was 0.
  std::vector<unsigned> order(unsigned count) {
    std::vector<unsigned> result(count);
    std::iota(result.begin(), result.end(), 0u);
    if (state != 0)
      for (unsigned i = count; i > 1; --i) std::swap(result[i - 1], result[next() % i]);
    return result;
  }
};

// ---- stacks ----

constexpr size_t GUARD_BYTES = STACK_BYTES;  // at least as large as the stack frame of any function
constexpr size_t STACK_STRIDE = STACK_BYTES + GUARD_BYTES;
uintptr_t stacks;

uintptr_t stack_of(unsigned thread) { return stacks + thread * STACK_STRIDE + GUARD_BYTES; }

void reserve_stacks() {
  void* memory =
      mmap(nullptr, STACK_STRIDE * MAX_THREADS, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("mmap");
    std::exit(1);
  }
  stacks = reinterpret_cast<uintptr_t>(memory);
}

void open_stacks(unsigned count) {
  static unsigned open = 0;
  if (stacks == 0) reserve_stacks();
  for (; open < count; ++open)
    mprotect(reinterpret_cast<void*>(stack_of(open)), STACK_BYTES, PROT_READ | PROT_WRITE);
}

// ---- one thread ----

void thread_main() {
  kernel(arguments, running->position);
  running->state = DONE;
  host_switch(&running->stack_pointer, scheduler);
}

void set_stamps(const Thread& thread) {
  const uint64_t index = thread.position.thread_index_in_threadgroup;
  for (int space = 0; space < SPACES; ++space)
    stamp[space] = epochs[space] << EPOCH_SHIFT | uint64_t{sub_epochs[space][index / SIMD_WIDTH]} << SUB_SHIFT |
                   index << THREAD_SHIFT;
}

// The machine itself may access everything.
void leave_thread() {
  running = nullptr;
  stack_begin = 0;
  stack_bytes = ~uint64_t{0};
}

void resume(Thread& thread) {
  running = &thread;
  stack_begin = stack_of(thread.position.thread_index_in_threadgroup);
  stack_bytes = STACK_BYTES;
  set_stamps(thread);
  host_switch(&scheduler, thread.stack_pointer);
  leave_thread();
}

uint64_t call_chain(const void* frame) {
  uint64_t hash = 0;
  for (auto f = static_cast<const uintptr_t*>(frame); f != nullptr && f[1] != 0;
       f = reinterpret_cast<const uintptr_t*>(f[0]))
    hash = (hash ^ f[1]) * 0x9e3779b97f4a7c15;
  return hash;
}

void park(State state, const void* frame, unsigned flags, void* value, Combine combine) {
  Thread& thread = *running;
  thread.state = state;
  thread.site = call_chain(frame);
  thread.frame = frame;
  thread.flags = flags;
  thread.value = value;
  thread.combine = combine;
  host_switch(&thread.stack_pointer, scheduler);
}

// ---- threads together ----

const char* doing(const Thread& thread) {
  switch (thread.state) {
    case AT_SIMD: return thread.combine != nullptr ? "at another simdgroup operation" : "at another simdgroup barrier";
    case AT_BARRIER: return "at a threadgroup barrier";
    default: return "at its end";
  }
}

[[noreturn]] void report_divergence(Thread& waiting, const Thread& other, const char* kind) {
  char detail[128];
  const bool elsewhere = waiting.state == AT_BARRIER && other.state == AT_BARRIER;
  std::snprintf(detail, sizeof detail, "thread %u of the group waits here, thread %u is %s",
                waiting.position.thread_index_in_threadgroup, other.position.thread_index_in_threadgroup,
                elsewhere ? "at another threadgroup barrier" : doing(other));
  running = &waiting;
  Finding finding{kind, detail};
  if (other.state != DONE) finding.other_frame = other.frame;
  report(finding, waiting.frame);
}

void order_memory(unsigned flags, unsigned simdgroup) {
  for (int space = 0; space < SPACES; ++space)
    if (flags & (1u << space)) ++sub_epochs[space][simdgroup];
}

unsigned simdgroup_size(unsigned simdgroup) { return std::min(SIMD_WIDTH, thread_count - simdgroup * SIMD_WIDTH); }

// Resumes the lanes of a simdgroup if all of them have reached the same operation.
bool meet_simdgroup(unsigned simdgroup) {
  Thread* lanes = threads + simdgroup * SIMD_WIDTH;
  const unsigned count = simdgroup_size(simdgroup);
  Thread* waiting = nullptr;
  for (unsigned i = 0; i < count && waiting == nullptr; ++i)
    if (lanes[i].state == AT_SIMD) waiting = &lanes[i];
  if (waiting == nullptr) return false;
  void* values[SIMD_WIDTH];
  for (unsigned i = 0; i < count; ++i) {
    if (lanes[i].state != AT_SIMD || lanes[i].site != waiting->site || lanes[i].combine != waiting->combine)
      report_divergence(*waiting, lanes[i], "divergent simdgroup operation");
    values[i] = lanes[i].value;
  }
  if (waiting->combine != nullptr) {
    running = lanes;  // for reports: refined by host_no_such_lane
    waiting->combine(values, count);
    running = nullptr;
  } else {
    order_memory(waiting->flags, simdgroup);
  }
  for (unsigned i = 0; i < count; ++i) lanes[i].state = RUNNABLE;
  return true;
}

void run_simdgroup(unsigned simdgroup, Shuffler& shuffler) {
  Thread* lanes = threads + simdgroup * SIMD_WIDTH;
  const std::vector<unsigned> order = shuffler.order(simdgroup_size(simdgroup));
  do {
    for (unsigned i : order)
      if (lanes[i].state == RUNNABLE) resume(lanes[i]);
  } while (meet_simdgroup(simdgroup));
}

// Resumes the group if all its threads have reached the same barrier; returns false if all have ended.
bool meet_group() {
  report_kept();
  Thread* waiting = nullptr;
  for (unsigned i = 0; i < thread_count && waiting == nullptr; ++i)
    if (threads[i].state == AT_BARRIER) waiting = &threads[i];
  if (waiting == nullptr) return false;
  for (unsigned i = 0; i < thread_count; ++i)
    if (threads[i].state == DONE || threads[i].site != waiting->site)
      report_divergence(*waiting, threads[i], "divergent barrier");
  for (int space = 0; space < SPACES; ++space)
    if (waiting->flags & (1u << space)) {
      ++epochs[space];
      std::memset(sub_epochs[space], 0, sizeof sub_epochs[space]);
    }
  for (unsigned i = 0; i < thread_count; ++i) threads[i].state = RUNNABLE;
  return true;
}

// ---- groups ----

unsigned divide_up(unsigned a, unsigned b) { return (a + b - 1) / b; }
unsigned volume(const Triple& t) { return t.x * t.y * t.z; }

void place_threads(const Grid& grid, const Triple& groups, const Triple& group) {
  const Triple begin = {group.x * grid.group.x, group.y * grid.group.y, group.z * grid.group.z};
  // The last groups of a grid are smaller if the grid's size is not a multiple of theirs.
  const Triple size = {std::min(grid.group.x, grid.threads.x - begin.x),
                       std::min(grid.group.y, grid.threads.y - begin.y),
                       std::min(grid.group.z, grid.threads.z - begin.z)};
  thread_count = volume(size);
  open_stacks(thread_count);
  for (unsigned i = 0; i < thread_count; ++i) {
    const Triple at = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    Position& p = threads[i].position;
    p.dispatch_threads_per_threadgroup = grid.group;
    p.grid_origin = {0, 0, 0};
    p.grid_size = p.threads_per_grid = grid.threads;
    p.thread_position_in_grid = {begin.x + at.x, begin.y + at.y, begin.z + at.z};
    p.thread_position_in_threadgroup = at;
    p.threadgroup_position_in_grid = group;
    p.threadgroups_per_grid = groups;
    p.threads_per_threadgroup = size;
    p.dispatch_quadgroups_per_threadgroup = divide_up(volume(grid.group), 4);
    p.dispatch_simdgroups_per_threadgroup = divide_up(volume(grid.group), SIMD_WIDTH);
    p.quadgroup_index_in_threadgroup = i / 4;
    p.quadgroups_per_threadgroup = divide_up(thread_count, 4);
    p.simdgroup_index_in_threadgroup = i / SIMD_WIDTH;
    p.simdgroups_per_threadgroup = divide_up(thread_count, SIMD_WIDTH);
    p.thread_execution_width = p.threads_per_simdgroup = SIMD_WIDTH;
    p.thread_index_in_quadgroup = i % 4;
    p.thread_index_in_simdgroup = i % SIMD_WIDTH;
    p.thread_index_in_threadgroup = i;
    threads[i].state = RUNNABLE;
    threads[i].stack_pointer = prepare_stack(stack_of(i), STACK_BYTES, thread_main);
  }
}

void begin_epochs() {
  for (int space = 0; space < SPACES; ++space) group_begin[space] = ++epochs[space];
  std::memset(sub_epochs, 0, sizeof sub_epochs);
}

void run_group(Shuffler& shuffler) {
  begin_epochs();
  do {
    for (unsigned simdgroup : shuffler.order(divide_up(thread_count, SIMD_WIDTH))) run_simdgroup(simdgroup, shuffler);
  } while (meet_group());
}

}  // namespace

void run_grid(KernelEntry entry, void* const* buffers, const Grid& grid, uint64_t seed) {
  kernel = entry;
  arguments = buffers;
  for (auto& [declaration, region] : threadgroup_regions) clear_shadow(*region);
  const Triple groups = {divide_up(grid.threads.x, grid.group.x), divide_up(grid.threads.y, grid.group.y),
                         divide_up(grid.threads.z, grid.group.z)};
  Shuffler shuffler{seed};
  leave_thread();
  for (unsigned i : shuffler.order(volume(groups))) {
    place_threads(grid, groups, {i % groups.x, i / groups.x % groups.y, i / (groups.x * groups.y)});
    run_group(shuffler);
  }
}

const Position* current_position() { return running != nullptr ? &running->position : nullptr; }

bool in_stack_guard(uintptr_t address) {
  return address - stacks < STACK_STRIDE * MAX_THREADS && (address - stacks) % STACK_STRIDE < GUARD_BYTES;
}

}  // namespace host

using namespace host;

void* host_threadgroup_memory(const void* declaration, const char* name, unsigned long bytes, unsigned long alignment,
                              unsigned long scalar) {
  Region*& region = threadgroup_regions[declaration];
  if (region == nullptr) {
    threadgroup_bytes = (threadgroup_bytes + alignment - 1) / alignment * alignment + bytes;
    if (threadgroup_bytes > THREADGROUP_BYTES) {
      char detail[96];
      std::snprintf(detail, sizeof detail, "%lu bytes of threadgroup memory, the limit is %lu",
                    static_cast<unsigned long>(threadgroup_bytes), static_cast<unsigned long>(THREADGROUP_BYTES));
      report({"threadgroup memory", detail, name}, HERE);
    }
    Region wanted;
    wanted.name = name;
    wanted.space = THREADGROUP;
    wanted.writable = true;
    wanted.bytes = bytes;
    wanted.element = scalar;
    wanted.cell_shift = __builtin_ctzl(scalar);
    region = &new_region(wanted);
  }
  return reinterpret_cast<void*>(region->begin);
}

void host_threadgroup_barrier(unsigned flags) { park(AT_BARRIER, HERE, flags, nullptr, nullptr); }

void host_simdgroup_barrier(unsigned flags) { park(AT_SIMD, HERE, flags, nullptr, nullptr); }

void host_simd(void* value, Combine combine) { park(AT_SIMD, HERE, 0, value, combine); }

void host_no_such_lane(unsigned lane, unsigned wanted) {
  running += lane;
  char detail[96];
  std::snprintf(detail, sizeof detail, "lane %u reads lane %u, which its simdgroup does not have", lane, wanted);
  report({"no such lane", detail}, running->frame);
}

void host_atomic(const void* address, unsigned long bytes, bool reads, bool writes) {
  check_access(reinterpret_cast<uintptr_t>(address), bytes, reads, writes, true, HERE,
               reinterpret_cast<uintptr_t>(__builtin_return_address(0)));
}
