// How a fault leaves the machine: as lines "key value" on standard output, read by machine.py, and exit status 3.
#pragma once

#include <cstdint>
#include <string>

namespace host {

constexpr long NO_INDEX = INT64_MIN;

struct Finding {
  const char* kind;
  std::string detail;
  const char* buffer = nullptr;
  long index = NO_INDEX;
  // The other party: where the other access of a race was, as an offset into the kernel's library, or where another
  // thread waits instead, as its frame.
  uint32_t other_site = 0;
  const void* other_frame = nullptr;
};

// The library of the kernel, to distinguish its code and constants from all else.
struct Library {
  uintptr_t begin = 0, end = 0;
  bool holds(uintptr_t address) const { return address - begin < end - begin; }
};
extern Library library;

// Reports and ends the process. `frame` is a frame pointer: the return addresses above it give the source line.
// `first` is a code address below that frame, or 0.
[[noreturn]] void report(const Finding& finding, const void* frame, uintptr_t first = 0);

// Keeps a finding that a race may explain better. It is reported by report_kept(), or instead of any fault but a race.
void keep(const Finding& finding, const void* frame);
void report_kept();

// Sets up reports for signals: crashes, and more than `seconds` of processor time.
void report_signals(double seconds);

}  // namespace host

// The frame of the calling function.
#define HERE __builtin_frame_address(0)
