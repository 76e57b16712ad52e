#include "report.h"

#include <csignal>
#include <cstdarg>
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

std::string kept;

void append(std::string& text, const char* format, ...) __attribute__((format(printf, 2, 3)));
void append(std::string& text, const char* format, ...) {
  char line[512];
  va_list values;
  va_start(values, format);
  std::vsnprintf(line, sizeof line, format, values);
  va_end(values);
  text += line;
}

// Return addresses point behind the call; one byte less is inside it.
void append_sites(std::string& text, const char* key, const void* frame, uintptr_t first = 0) {
  append(text, "%s", key);
  if (library.holds(first)) append(text, " %#lx", first - library.begin);
  for (auto f = static_cast<const Frame*>(frame); f != nullptr && f->return_address != 0; f = f->caller)
    if (library.holds(f->return_address)) append(text, " %#lx", f->return_address - 1 - library.begin);
  text += "\n";
}

void append_position(std::string& text, const char* key, const Triple& at) {
  append(text, "%s %u %u %u\n", key, at.x, at.y, at.z);
}

std::string text_of(const Finding& finding, const void* frame, uintptr_t first) {
  std::string text;
  append(text, "kind %s\ndetail %s\n", finding.kind, finding.detail.c_str());
  if (finding.buffer != nullptr) append(text, "buffer %s\n", finding.buffer);
  if (finding.index != NO_INDEX) append(text, "index %ld\n", finding.index);
  if (finding.other_site != 0) append(text, "other %#x\n", finding.other_site);
  if (finding.other_frame != nullptr) append_sites(text, "other", finding.other_frame);
  if (const Position* position = current_position()) {
    append_position(text, "thread", position->thread_position_in_threadgroup);
    append_position(text, "group", position->threadgroup_position_in_grid);
  }
  append_sites(text, "sites", frame, first);
  return text;
}

[[noreturn]] void end_with(const std::string& text) {
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
  _exit(3);
}

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
  const bool explains = std::strcmp(finding.kind, "race") == 0;
  end_with(kept.empty() || explains ? text_of(finding, frame, first) : kept);
}

void keep(const Finding& finding, const void* frame) {
  if (kept.empty()) kept = text_of(finding, frame, 0);
}

void report_kept() {
  if (!kept.empty()) end_with(kept);
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
  // Processor time instead of elapsed time: a busy computer must not make a kernel look endless.
  itimerval timer = {};
  timer.it_value.tv_sec = static_cast<time_t>(seconds);
  timer.it_value.tv_usec = static_cast<suseconds_t>((seconds - static_cast<double>(timer.it_value.tv_sec)) * 1e6);
  setitimer(ITIMER_PROF, &timer, nullptr);
}

}  // namespace host
