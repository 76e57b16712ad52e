#include "memory.h"

#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>

namespace host {

Record stamp[SPACES];
uint64_t group_begin[SPACES];
uintptr_t stack_begin;
uint64_t stack_bytes;
uintptr_t zone;
Region regions[MAX_REGIONS];

namespace {

unsigned region_count = 0;

void* map(void* at, uint64_t bytes, int protection, int flags) {
  void* memory = mmap(at, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("mmap");
    std::exit(1);
  }
  return memory;
}

Cell* map_cells(uint64_t count) {
  return static_cast<Cell*>(map(nullptr, (count + 1) * sizeof(Cell), PROT_READ | PROT_WRITE, 0));
}

uint64_t epoch_of(Record record) { return record >> EPOCH_SHIFT; }
uint64_t sub_epoch_of(Record record) { return record >> SUB_SHIFT & 0xfffff; }
uint64_t thread_of(Record record) { return record >> THREAD_SHIFT & 0x3ff; }
uint64_t simdgroup_of(Record record) { return record >> SIMDGROUP_SHIFT & 0x1f; }

bool of_earlier_group(Record old, Space space) { return epoch_of(old) < group_begin[space]; }

// Returns whether a barrier of the simdgroup of both threads is between `old` and the access with the stamp `now`.
bool ordered_by_simdgroup(Record old, Record now) {
  return !(old & WIDE) && simdgroup_of(old) == simdgroup_of(now) && sub_epoch_of(old) < sub_epoch_of(now);
}

// Returns whether nothing orders the plain access before the atomic ones of `old` and the atomic access of `now`.
bool races_with_plain(Record old, Record now, Space space) {
  if (of_earlier_group(old, space)) return space == DEVICE && (old & PLAIN);
  return (old & PLAIN_IN_SIMDGROUP) && epoch_of(old) == epoch_of(now) && simdgroup_of(old) != simdgroup_of(now);
}

// Returns what an atomic access after `old`, in the same group, keeps about accesses that were not atomic.
Record plain_before(Record old, Record now) {
  if (epoch_of(old) != epoch_of(now)) return !(old & ATOMIC) || (old & PLAIN) ? PLAIN_IN_GROUP : 0;
  return (old & PLAIN) | (old & ATOMIC ? 0 : PLAIN_IN_SIMDGROUP);
}

// Returns whether nothing orders `old` before the access with the stamp `now`. One of them must be a write.
bool races(Record old, Record now, bool atomic, Space space) {
  if (old == 0) return false;
  if (atomic && (old & ATOMIC)) return races_with_plain(old, now, space);
  if (old & FOREIGN) return true;
  if (of_earlier_group(old, space)) return space == DEVICE;
  if (epoch_of(old) != epoch_of(now)) return false;
  if (thread_of(old) == thread_of(now) && !(old & MANY)) return false;
  return !ordered_by_simdgroup(old, now);
}

// Returns the record of `old` and the new access together: all that a later access could race with.
Record merge(Record old, Record now, bool atomic, Space space) {
  const Record alone = now | (atomic ? ATOMIC : 0);
  if (old == 0) return alone;
  Record lasting = old & FOREIGN;
  bool together = lasting != 0;  // whether a later access must know both
  if (of_earlier_group(old, space)) {
    if (space == THREADGROUP) return alone;
    lasting = FOREIGN;
    together = true;
  } else {
    if (epoch_of(old) == epoch_of(now) && !ordered_by_simdgroup(old, now)) {
      lasting |= old & (MANY | WIDE);
      if (thread_of(old) != thread_of(now)) lasting |= MANY;
      if (simdgroup_of(old) != simdgroup_of(now)) lasting |= WIDE;
      together = true;
    }
    if (atomic && (!together || (old & ATOMIC))) lasting |= plain_before(old, now);
  }
  return now | lasting | (atomic && (!together || (old & ATOMIC)) ? ATOMIC : 0);
}

// Gives a region smaller cells, because a thread accesses a part of a cell.
void refine(Region& region, int cell_shift) {
  Cell* coarse = region.cells;
  const int finer = region.cell_shift - cell_shift;
  region.cell_shift = cell_shift;
  region.cells = map_cells(region.cell_count());
  for (uint64_t i = 0; i < region.cell_count(); ++i) region.cells[i] = coarse[i >> finer];
}

[[noreturn]] void report_race(const Region& region, uintptr_t address, const char* what, Record old, uint32_t old_site,
                              const void* frame) {
  char detail[160];
  if (of_earlier_group(old, region.space))
    std::snprintf(detail, sizeof detail, "%s by a thread of another threadgroup", what);
  else if (old & PLAIN)
    std::snprintf(detail, sizeof detail, "%s not atomically by another simdgroup, no barrier between of the whole group",
                  what);
  else
    std::snprintf(detail, sizeof detail, "%s by thread %lu of the group, no barrier between that orders %s memory",
                  what, static_cast<unsigned long>(thread_of(old)), region.space == DEVICE ? "device" : "threadgroup");
  report({"race", detail, region.name.c_str(), region.index_of(address), old_site}, frame);
}

void check_initialized(const Region& region, const Cell& cell, uintptr_t address, const void* frame) {
  if (region.initialized) return;
  if (region.space == DEVICE && cell.written == 0)
    report({"uninitialized read", "nothing has written it yet", region.name.c_str(), region.index_of(address)}, frame);
  // A thread whose turn comes later may write it before the next barrier: then the fault is the race of the two.
  if (region.space == THREADGROUP && (cell.written == 0 || of_earlier_group(cell.written, THREADGROUP)))
    keep({"uninitialized read", "no thread of this group has written it yet", region.name.c_str(),
          region.index_of(address)},
         frame);
}

void check_cell(Region& region, Cell& cell, uintptr_t address, bool reads, bool writes, bool atomic, const void* frame,
                uint32_t site) {
  const Space space = region.space;
  const Record now = stamp[space];
  if (races(cell.written, now, atomic, space))
    report_race(region, address, writes ? "written, and written" : "read, and written", cell.written, cell.written_at,
                frame);
  if (writes && races(cell.read, now, atomic, space))
    report_race(region, address, "written, and read", cell.read, cell.read_at, frame);
  if (reads) {
    check_initialized(region, cell, address, frame);
    cell.read = merge(cell.read, now, atomic, space);
    if (!(cell.read & PLAIN)) cell.read_at = site;
  }
  if (writes) {
    cell.written = merge(cell.written, now, atomic, space);
    if (!(cell.written & PLAIN)) cell.written_at = site;
  }
}

}  // namespace

long Region::index_of(uintptr_t address) const {
  const auto offset = static_cast<long>(address - begin - origin);
  const auto size = static_cast<long>(element);
  return offset >= 0 ? offset / size : -((-offset + size - 1) / size);
}

void reserve_zone() {
  zone = reinterpret_cast<uintptr_t>(map(nullptr, uint64_t{MAX_REGIONS} << REGION_SHIFT, PROT_NONE, 0));
}

Region& new_region(Region description) {
  if (region_count == MAX_REGIONS) {
    std::fprintf(stderr, "more than %u buffers and threadgroup variables\n", MAX_REGIONS);
    std::exit(1);
  }
  Region& region = regions[region_count];
  region = description;
  const uint64_t middle = uint64_t{1} << (REGION_SHIFT - 1);
  region.begin = zone + (uint64_t{region_count} << REGION_SHIFT) + middle;
  ++region_count;
  if (region.bytes != 0) {
    map(reinterpret_cast<void*>(region.begin), region.bytes, PROT_READ | PROT_WRITE, MAP_FIXED);
    region.cells = map_cells(region.cell_count());
  }
  return region;
}

void clear_shadow(Region& region) {
  if (region.cells != nullptr) madvise(region.cells, region.cell_count() * sizeof(Cell), MADV_DONTNEED);
}

void check_region_access(Region& region, uintptr_t address, uint64_t bytes, bool reads, bool writes, bool atomic,
                         const void* frame, uint32_t site) {
  if (region.begin == 0) report_wild_access(address, writes, frame);
  if (address < region.begin || address - region.begin + bytes > region.bytes) {
    // For a vector that is partly inside: the first element outside.
    const uintptr_t end = region.begin + region.bytes;
    const uintptr_t outside = address >= region.begin && address < end ? end : address;
    const uint64_t count = region.bytes / region.element;
    char detail[96];
    std::snprintf(detail, sizeof detail, "%s outside its %lu element%s", writes ? "write" : "read",
                  static_cast<unsigned long>(count), count == 1 ? "" : "s");
    report({"out of bounds", detail, region.name.c_str(), region.index_of(outside)}, frame);
  }
  if (writes && !region.writable)
    report({"write to input", "an input may only be read", region.name.c_str(), region.index_of(address)}, frame);
  if (!region.writable) return;
  const uint64_t offset = address - region.begin;
  const uint64_t odd = (offset | bytes) & ((1ul << region.cell_shift) - 1);
  if (odd != 0) refine(region, __builtin_ctzl(odd));
  const uint64_t last = (offset + bytes - 1) >> region.cell_shift;
  for (uint64_t i = offset >> region.cell_shift; i <= last; ++i)
    check_cell(region, region.cells[i], region.begin + (i << region.cell_shift), reads, writes, atomic, frame, site);
}

void report_wild_access(uintptr_t address, bool writes, const void* frame) {
  char detail[128];
  std::snprintf(detail, sizeof detail,
                "%s at %#lx, which is in no buffer, no threadgroup memory and not the thread's own",
                writes ? "write" : "read", static_cast<unsigned long>(address));
  report({"wild access", detail}, frame);
}

}  // namespace host
