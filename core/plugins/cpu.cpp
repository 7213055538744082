#include "core/plugins/cpu.h"

#include <cstdlib>

#include "core/error.h"
#include "core/files/bytes.h"
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace tenon {
namespace {

struct Feature {
  std::string_view name;
  int level;  // of x86-64-vN that has it; what is beyond every level counts as 4
  bool (*present)();
};

#if defined(__x86_64__)
// Three that the compilers' builtin does not know. Register: 1 = leaf 1 ECX, 2 = leaf 0x80000001 ECX.
template <int kLeaf, unsigned kBit>
bool cpuid_bit() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  const unsigned leaf = kLeaf == 1 ? 1 : 0x80000001u;
  return __get_cpuid(leaf, &a, &b, &c, &d) && (c >> kBit & 1) && (kBit != 29 || __builtin_cpu_supports("avx"));
}

#define TENON_FEATURE(level, name)                                \
  {                                                               \
    name, level, [] { return __builtin_cpu_supports(name) != 0; } \
  }
constexpr Feature kFeatures[] = {
    TENON_FEATURE(2, "popcnt"),      TENON_FEATURE(2, "sse3"),       TENON_FEATURE(2, "ssse3"),
    TENON_FEATURE(2, "sse4.1"),      TENON_FEATURE(2, "sse4.2"),     TENON_FEATURE(3, "avx"),
    TENON_FEATURE(3, "avx2"),        TENON_FEATURE(3, "bmi"),        TENON_FEATURE(3, "bmi2"),
    TENON_FEATURE(3, "fma"),         {"f16c", 3, cpuid_bit<1, 29>},  {"movbe", 3, cpuid_bit<1, 22>},
    {"lzcnt", 3, cpuid_bit<2, 5>},   TENON_FEATURE(4, "avx512f"),    TENON_FEATURE(4, "avx512bw"),
    TENON_FEATURE(4, "avx512cd"),    TENON_FEATURE(4, "avx512dq"),   TENON_FEATURE(4, "avx512vl"),
    TENON_FEATURE(4, "avx512vnni"),  TENON_FEATURE(4, "avx512bf16"), TENON_FEATURE(4, "avx512vbmi"),
    TENON_FEATURE(4, "avx512vbmi2"), TENON_FEATURE(4, "gfni"),
};
#undef TENON_FEATURE
#else
constexpr Feature kFeatures[] = {{"", 0, [] { return false; }}};
#endif

constexpr std::string_view kBeyondLevels[] = {"avx512vnni", "avx512bf16", "avx512vbmi", "avx512vbmi2", "gfni"};

int level_number(std::string_view level) {
  if (level == "x86-64") return 1;
  if (level.size() == 9 && level.starts_with("x86-64-v") && level[8] >= '1' && level[8] <= '4') return level[8] - '0';
  return 0;
}

int highest_level() {
  const char* const cap = std::getenv("TENON_CPU");
  if (!cap || !*cap) return 4;
  const int level = level_number(cap);
  if (level == 0) {
    throw Error(TN_E_ARGUMENT,
                "the environment variable TENON_CPU is " + quote_name(cap) +
                    ", which is not a CPU level; set it to x86-64, x86-64-v2, x86-64-v3 or x86-64-v4, or unset it");
  }
  return level;
}

}  // namespace

std::vector<std::string> missing_cpu_features(const std::vector<std::string>& features) {
  const int highest = highest_level();
  std::vector<std::string> missing;
  for (const std::string& name : features) {
    bool found = false;
    for (const Feature& feature : kFeatures)
      found = found || (feature.name == name && feature.level <= highest && feature.present());
    if (!found) missing.push_back(name);
  }
  return missing;
}

std::vector<std::string> cpu_level_features(std::string_view level) {
  std::vector<std::string> names;
  const int number = level_number(level);
  for (const Feature& feature : kFeatures) {
    bool beyond = false;
    for (const std::string_view name : kBeyondLevels) beyond = beyond || name == feature.name;
    if (feature.level == number && !beyond) names.emplace_back(feature.name);
  }
  return names;
}

}  // namespace tenon
