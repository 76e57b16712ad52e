// The functions that `-fsanitize=thread` and `-fsanitize=undefined` make the compiler call: before every memory access,
// and for undefined operations. The sanitizers' own libraries are not linked, so the kernel calls these functions.
#include <cstdint>
#include <cstdio>

#include "memory.h"
#include "report.h"

using namespace host;

namespace {

[[noreturn]] void undefined(const char* detail, const void* frame) { report({"undefined behavior", detail}, frame); }

}  // namespace

#define RETURN_ADDRESS reinterpret_cast<uintptr_t>(__builtin_return_address(0))
#define CHECK(bytes, reads, writes) \
  check_access(reinterpret_cast<uintptr_t>(address), bytes, reads, writes, false, HERE, RETURN_ADDRESS)
#define ACCESS(bytes)                                                              \
  void __tsan_read##bytes(void* address) { CHECK(bytes, true, false); }            \
  void __tsan_write##bytes(void* address) { CHECK(bytes, false, true); }           \
  void __tsan_unaligned_read##bytes(void* address) { CHECK(bytes, true, false); }  \
  void __tsan_unaligned_write##bytes(void* address) { CHECK(bytes, false, true); } \
  void __tsan_volatile_read##bytes(void* address) { CHECK(bytes, true, false); }   \
  void __tsan_volatile_write##bytes(void* address) { CHECK(bytes, false, true); }

// -fsanitize=undefined passes a description and the operands, which report() does not need: it has the return address.
#define UNDEFINED(name, detail) \
  void __ubsan_handle_##name(void*) { undefined(detail, HERE); }

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void** address, void*) { CHECK(8, false, true); }
void __tsan_vptr_read(void** address) { CHECK(8, true, false); }
void __tsan_read_range(void* address, unsigned long bytes) { CHECK(bytes, true, false); }
void __tsan_write_range(void* address, unsigned long bytes) { CHECK(bytes, false, true); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)

UNDEFINED(add_overflow, "integer addition overflows")
UNDEFINED(sub_overflow, "integer subtraction overflows")
UNDEFINED(mul_overflow, "integer multiplication overflows")
UNDEFINED(negate_overflow, "integer negation overflows")
UNDEFINED(divrem_overflow, "integer division by zero, or of the least integer by -1")
UNDEFINED(shift_out_of_bounds, "shift of or by a number that is negative or too large")
UNDEFINED(out_of_bounds, "index outside an array")
UNDEFINED(float_cast_overflow, "floating-point value outside the integer's range")
UNDEFINED(load_invalid_value, "a bool that is neither true nor false")
UNDEFINED(missing_return, "end of a function that must return a value")
UNDEFINED(builtin_unreachable, "unreachable code")
UNDEFINED(vla_bound_not_positive, "array of no or negative length")

void __ubsan_handle_type_mismatch_v1(void*, void* pointer) {
  undefined(pointer == nullptr ? "null pointer" : "misaligned address", HERE);
}
}
