#include "devices/onednn/cpu.h"

#include <cpuid.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace tenon::onednn {
namespace {

// First number of a line "key: 123 kB" or of the whole file where key is null; `absent` where there is none.
uint64_t read_number(const char* path, const char* key, uint64_t absent) {
  std::FILE* file = std::fopen(path, "re");
  if (!file) return absent;
  char line[256];
  uint64_t value = absent;
  while (std::fgets(line, sizeof line, file)) {
    const char* at = key ? (std::strncmp(line, key, std::strlen(key)) == 0 ? line + std::strlen(key) : nullptr) : line;
    unsigned long long number;
    if (at && std::sscanf(at, "%llu", &number) == 1) {
      value = number;
      break;
    }
  }
  std::fclose(file);
  return value;
}

}  // namespace

namespace {

std::string ask_name() {
  unsigned words[12] = {};
  for (unsigned i = 0; i < 3; ++i)
    if (!__get_cpuid(0x80000002u + i, words + 4 * i, words + 4 * i + 1, words + 4 * i + 2, words + 4 * i + 3))
      return "x86-64 CPU";
  char text[sizeof words + 1] = {};
  std::memcpy(text, words, sizeof words);
  std::string name(text);
  name.erase(0, name.find_first_not_of(' '));
  name.erase(name.find_last_not_of(' ') + 1);
  return name.empty() ? "x86-64 CPU" : name;
}

std::string ask_arch() {
  __builtin_cpu_init();
  std::string arch =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
          ? "x86-64-v4"
      : __builtin_cpu_supports("avx2") ? "x86-64-v3"
                                       : "x86-64";
  unsigned a, b, c, d;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1)) arch += "+bf16";
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1)) arch += "+amx";
  return arch;
}

}  // namespace

// Asked once: in a virtual machine every such question leaves it.
const std::string& cpu_name() {
  static const std::string name = ask_name();
  return name;
}
const std::string& cpu_arch() {
  static const std::string arch = ask_arch();
  return arch;
}

uint64_t last_cache_bytes() {
  const long bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
  return bytes > 0 ? static_cast<uint64_t>(bytes) : 32u << 20;
}

SystemMemory system_memory() {
  constexpr uint64_t kNone = ~uint64_t{0};
  const uint64_t total = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t available_kb = read_number("/proc/meminfo", "MemAvailable:", kNone);
  SystemMemory m{total, available_kb == kNone ? total : available_kb * 1024};
  const uint64_t limit = read_number("/sys/fs/cgroup/memory.max", nullptr, kNone);
  if (limit < m.total_bytes) {
    // Pages of files that the group could drop count as free.
    const uint64_t used = read_number("/sys/fs/cgroup/memory.current", nullptr, 0);
    const uint64_t droppable = std::min(used, read_number("/sys/fs/cgroup/memory.stat", "inactive_file", 0));
    m.total_bytes = limit;
    m.free_bytes = std::min(m.free_bytes, limit - std::min(limit, used - droppable));
  }
  return m;
}

}  // namespace tenon::onednn
