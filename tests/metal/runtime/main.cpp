// The machine's process: reads the description of one launch on standard input, runs it once for each seed, and leaves
// the outputs in files. machine.py documents the description.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <iostream>
#include <link.h>
#include <string>
#include <sys/mman.h>
#include <vector>

#include "memory.h"
#include "report.h"
#include "threads.h"

using namespace host;

namespace {

struct Buffer {
  Region* region;
  std::string path;  // of its first contents
};

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::exit(1);
}

void read_file(const std::string& path, void* to, uint64_t bytes) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr || std::fread(to, 1, bytes, file) != bytes) die(path.c_str());
  std::fclose(file);
}

void write_file(const std::string& path, const void* from, uint64_t bytes) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr || std::fwrite(from, 1, bytes, file) != bytes || std::fclose(file) != 0) die(path.c_str());
}

void find_library(void* handle) {
  link_map* map = nullptr;
  dlinfo(handle, RTLD_DI_LINKMAP, &map);
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* wanted) {
        if (info->dlpi_addr != static_cast<link_map*>(wanted)->l_addr) return 0;
        library.begin = info->dlpi_addr;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& segment = info->dlpi_phdr[i];
          if (segment.p_type == PT_LOAD)
            library.end = std::max(library.end, library.begin + segment.p_vaddr + segment.p_memsz);
        }
        return 1;
      },
      map);
}

KernelEntry load_kernel(const std::string& path) {
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  void* entry = handle != nullptr ? dlsym(handle, "host_kernel_entry") : nullptr;
  if (entry == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    std::exit(1);
  }
  find_library(handle);
  return reinterpret_cast<KernelEntry>(entry);
}

// A path is on its own line, because it may contain spaces.
std::string read_path() {
  std::string path;
  std::getline(std::cin >> std::ws, path);
  return path;
}

Buffer read_buffer() {
  const std::string path = read_path();
  std::string role;
  Region wanted;
  unsigned scalar;
  std::cin >> role >> wanted.name >> wanted.element >> scalar >> wanted.bytes >> wanted.origin;
  wanted.cell_shift = __builtin_ctz(scalar);
  wanted.writable = role != "input";
  wanted.initialized = role != "output";
  return {&new_region(wanted), path};
}

// Reports bytes that a launch should have written and has not, which no value of them could show for sure.
void check_all_written(const Region& region) {
  if (region.initialized) return;
  for (uint64_t i = 0; i < region.cell_count(); ++i)
    if (region.cells[i].written == 0)
      report({"unwritten output", "no thread wrote this element, and there is no init_value", region.name.c_str(),
              region.index_of(region.begin + (i << region.cell_shift))},
             nullptr);
}

void run(KernelEntry kernel, const std::vector<Buffer>& buffers, const Grid& grid, uint64_t seed, int number) {
  std::vector<void*> arguments;
  for (const Buffer& buffer : buffers) {
    Region& region = *buffer.region;
    if (region.writable || number == 0) read_file(buffer.path, reinterpret_cast<void*>(region.begin), region.bytes);
    if (region.writable) clear_shadow(region);
    arguments.push_back(reinterpret_cast<void*>(region.begin + region.origin));
  }
  run_grid(kernel, arguments.data(), grid, seed);
  for (const Buffer& buffer : buffers) {
    const Region& region = *buffer.region;
    if (!region.writable) continue;
    check_all_written(region);
    write_file(buffer.path + "." + std::to_string(number), reinterpret_cast<const void*>(region.begin), region.bytes);
  }
}

// A GPU may treat denormal float32 numbers as zeros in inputs and results. Half's denormals are normal in float32.
void flush_denormals() {
  constexpr unsigned FLUSH_TO_ZERO = 0x8000, DENORMALS_ARE_ZERO = 0x40;
  __builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() | FLUSH_TO_ZERO | DENORMALS_ARE_ZERO);
}

}  // namespace

int main() {
  std::cin.exceptions(std::ios::failbit | std::ios::badbit);
  double seconds;
  bool flushes;
  Grid grid;
  unsigned seed_count, buffer_count;
  auto &threads = grid.threads, &group = grid.group;
  const std::string library_path = read_path();
  std::cin >> seconds >> flushes >> threads.x >> threads.y >> threads.z >> group.x >> group.y >> group.z >> seed_count;
  std::vector<uint64_t> seeds(seed_count);
  for (uint64_t& seed : seeds) std::cin >> seed;
  std::cin >> buffer_count;
  reserve_zone();
  std::vector<Buffer> buffers;
  for (unsigned i = 0; i < buffer_count; ++i) buffers.push_back(read_buffer());
  const KernelEntry kernel = load_kernel(library_path);
  report_signals(seconds);
  if (flushes) flush_denormals();
  for (unsigned i = 0; i < seed_count; ++i) run(kernel, buffers, grid, seeds[i], static_cast<int>(i));
  return 0;
}
