// The machine's memory: device buffers and threadgroup variables, each far from all others, each with a shadow that
// records which thread accessed what since which barrier.
#pragma once

#include <cstdint>
#include <string>

#include "report.h"

namespace host {

enum Space { DEVICE, THREADGROUP, SPACES };

// Who last read or wrote a cell, in 64 bits: epoch (28), sub-epoch (20), thread in group (10), flags (6).
// An epoch ends with each barrier that orders the space, a sub-epoch with each such barrier of the thread's simdgroup.
// 0 means nobody.
using Record = uint64_t;
constexpr Record ATOMIC = 1;   // every access that this record stands for was atomic
constexpr Record MANY = 2;     // more than one thread in this epoch
constexpr Record WIDE = 4;     // of more than one simdgroup
constexpr Record FOREIGN = 8;  // threadgroups that ran earlier, too
// An access that was not atomic came before these atomic ones, and is ordered for the rest of its simdgroup or group.
constexpr Record PLAIN_IN_SIMDGROUP = 16;
constexpr Record PLAIN_IN_GROUP = 32;
constexpr Record PLAIN = PLAIN_IN_SIMDGROUP | PLAIN_IN_GROUP;
constexpr int EPOCH_SHIFT = 36, SUB_SHIFT = 16, THREAD_SHIFT = 6, SIMDGROUP_SHIFT = 11;

struct Cell {
  Record written, read;
  uint32_t written_at, read_at;  // offsets into the kernel's library; of the plain access where there was one
};

struct Region {
  std::string name;
  Space space = DEVICE;
  bool writable = false;
  bool initialized = false;  // may be read before it is written
  uintptr_t begin = 0;
  uint64_t bytes = 0;
  uint64_t element = 1;  // bytes of an element, for reports
  uint64_t origin = 0;   // byte that element 0 starts at
  int cell_shift = 0;    // log2 of the bytes that one cell stands for
  Cell* cells = nullptr;

  uint64_t cell_count() const { return (bytes + (1ul << cell_shift) - 1) >> cell_shift; }
  long index_of(uintptr_t address) const;
};

// What the running thread leaves in a cell, for each space; kept up to date by threads.cpp.
extern Record stamp[SPACES];
// The first epoch of the running threadgroup.
extern uint64_t group_begin[SPACES];

// The stack of the running thread, which only it may touch.
extern uintptr_t stack_begin;
extern uint64_t stack_bytes;

constexpr int REGION_SHIFT = 37;
constexpr unsigned MAX_REGIONS = 128;
extern uintptr_t zone;
extern Region regions[MAX_REGIONS];

// Reserves the address range that all regions live in.
void reserve_zone();
// A new region of `bytes` zeros. Everything within 64 GB of it belongs to no other region, so that whatever a
// 32-bit index can reach is still reported under the right name.
Region& new_region(Region description);
// Forgets all accesses.
void clear_shadow(Region& region);

void check_region_access(Region& region, uintptr_t address, uint64_t bytes, bool reads, bool writes, bool atomic,
                         const void* frame, uint32_t site);
[[noreturn]] void report_wild_access(uintptr_t address, bool writes, const void* frame);

// To be called before each access of a thread; the fast path of the machine.
inline void check_access(uintptr_t address, uint64_t bytes, bool reads, bool writes, bool atomic, const void* frame,
                         uintptr_t return_address) {
  if (address - stack_begin < stack_bytes) return;
  const uint64_t slot = (address - zone) >> REGION_SHIFT;
  if (slot < MAX_REGIONS) {
    Region& region = regions[slot];
    const bool inside = address - region.begin + bytes <= region.bytes && address >= region.begin;
    if (inside && !region.writable && !writes) return;
    check_region_access(region, address, bytes, reads, writes, atomic, frame,
                        static_cast<uint32_t>(return_address - 1 - library.begin));
    return;
  }
  if (!writes && library.holds(address)) return;
  report_wild_access(address, writes, frame);
}

}  // namespace host
