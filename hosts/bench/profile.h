// Where a step's time and bytes go, by operator, beside the time that they must at least take on this device.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "hosts/trainer/engine/engine.h"

namespace tenon::bench {

// One operator or technique over one step. Bytes and operations are what the work must at least move and compute, as
// its shapes or the technique's own estimate say; bound_seconds is the longer of the times that they take at the speeds
// measured in the same run. Operands that stay in a cache are faster than main memory, so that a small operator may
// beat its bound.
struct ProfileRow {
  std::string name;
  double calls = 0, seconds = 0, bytes = 0, operations = 0, bound_seconds = 0;
};

struct Speeds {
  double bytes_per_second = 0, operations_per_second = 0;
};

// The faster of a copy and a triad over arrays that no cache holds.
double memory_speed(trainer::Engine& engine, int repeat);

// The engine's profile of `steps` steps that took `seconds` together, an operator a row, the longest first; the last
// row is the rest.
std::vector<ProfileRow> profile_rows(const trainer::Engine& engine, int steps, double seconds, const Speeds& speeds);

void print_profile(const std::vector<ProfileRow>& rows, const Speeds& speeds);
nlohmann::json profile_json(const std::vector<ProfileRow>& rows);

}  // namespace tenon::bench
