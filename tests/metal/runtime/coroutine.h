// Switches between stacks in 20 ns; swapcontext would make a system call.
#pragma once

#include <cstdint>

extern "C" {
// Saves the caller's registers on its stack, its stack pointer in *from, and continues on `to`.
void host_switch(void** from, void* to);
// Where a new coroutine starts; its function is in r12.
void host_start();
}

asm(R"(
.text
.globl host_switch
.type host_switch, @function
host_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size host_switch, . - host_switch

.globl host_start
.type host_start, @function
host_start:
  xorl %ebp, %ebp
  pushq %rbp
  movq %rsp, %rbp
  callq *%r12
  ud2
.size host_start, . - host_start
)");

namespace host {

// Prepares a stack so that the first switch to it calls `function`, which must not return.
inline void* prepare_stack(uintptr_t begin, uint64_t bytes, void (*function)()) {
  auto top = reinterpret_cast<uintptr_t*>((begin + bytes) & ~uintptr_t{15});
  *--top = 0;
  *--top = reinterpret_cast<uintptr_t>(&host_start);
  *--top = 0;                                        // rbp
  *--top = 0;                                        // rbx
  *--top = reinterpret_cast<uintptr_t>(function);    // r12
  for (int i = 0; i < 3; ++i) *--top = 0;            // r13, r14, r15
  return top;
}

}  // namespace host
