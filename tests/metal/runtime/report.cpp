#include "report.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include "threads.h"

namespace host {

Library library;

namespace {

double time_limit;

struct Frame {
  const Frame* caller;
  uintptr_t return_address;
};

// Return addresses point behind the call; one byte less lies within it.
void print_sites(const char* key, const void* frame, uintptr_t first = 0) {
  std::printf("%s", key);
  if (library.holds(first)) std::printf(" %#lx", first - library.begin);
  for (auto f = static_cast<const Frame*>(frame); f != nullptr && f->return_address != 0; f = f->caller)
    if (library.holds(f->return_address)) std::printf(" %#lx", f->return_address - 1 - library.begin);
  std::printf("\n");
}

void print_position(const char* key, const Triple& at) { std::printf("%s %u %u %u\n", key, at.x, at.y, at.z); }

[[noreturn]] void on_signal(int signal, siginfo_t* info, void* state) {
  const auto& registers = static_cast<ucontext_t*>(state)->uc_mcontext.gregs;
  const auto frame = reinterpret_cast<const void*>(registers[REG_RBP]);
  const auto code = static_cast<uintptr_t>(registers[REG_RIP]);
  char detail[128];
  if (signal == SIGPROF) {
    std::snprintf(detail, sizeof detail, "did not end within %g s", time_limit);
    report({"time limit", detail}, frame, code);
  }
  if (signal == SIGSEGV && in_stack_guard(reinterpret_cast<uintptr_t>(info->si_addr))) {
    std::snprintf(detail, sizeof detail, "the thread's private memory exceeds %zu KiB", STACK_BYTES / 1024);
    report({"private memory", detail}, nullptr, code);
  }
  std::snprintf(detail, sizeof detail, "%s, at address %p", strsignal(signal), info->si_addr);
  report({"crash", detail}, frame, code);
}

}  // namespace

void report(const Finding& finding, const void* frame, uintptr_t first) {
  std::printf("kind %s\ndetail %s\n", finding.kind, finding.detail.c_str());
  if (finding.buffer != nullptr) std::printf("buffer %s\n", finding.buffer);
  if (finding.index != NO_INDEX) std::printf("index %ld\n", finding.index);
  if (finding.other_site != 0) std::printf("other %#x\n", finding.other_site);
  if (finding.other_frame != nullptr) print_sites("other", finding.other_frame);
  if (const Position* position = current_position()) {
    print_position("thread", position->thread_position_in_threadgroup);
    print_position("group", position->threadgroup_position_in_grid);
  }
  print_sites("sites", frame, first);
  std::fflush(stdout);
  _exit(3);
}

void report_signals(double seconds) {
  time_limit = seconds;
  static char stack[64 * 1024];
  stack_t alternative = {};
  alternative.ss_sp = stack;
  alternative.ss_size = sizeof stack;
  sigaltstack(&alternative, nullptr);
  struct sigaction action = {};
  action.sa_sigaction = [](int signal, siginfo_t* info, void* state) { on_signal(signal, info, state); };
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGPROF}) sigaction(signal, &action, nullptr);
  // Processor time, not the clock's: a busy computer must not make a kernel look endless.
  itimerval timer = {};
  timer.it_value.tv_sec = static_cast<time_t>(seconds);
  timer.it_value.tv_usec = static_cast<suseconds_t>((seconds - static_cast<double>(timer.it_value.tv_sec)) * 1e6);
  setitimer(ITIMER_PROF, &timer, nullptr);
}

}  // namespace host
