#include "hosts/bench/profile.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "hosts/bench/measure.h"

namespace tenon::bench {

using trainer::Tensor;

double memory_speed(trainer::Engine& engine, int repeat) {
  const int64_t n = int64_t{1} << 24;
  const Tensor x = engine.empty(Category::kWorkspace, trainer::kF32, {n}),
               y = engine.empty(Category::kWorkspace, trainer::kF32, {n});
  engine.zero(x), engine.zero(y);
  const double bytes = static_cast<double>(x.bytes());
  const Figures speeds = measure({{"copy", 2 * bytes, 1,
                                   [&] {
                                     engine.copy(x, y);
                                     engine.synchronize();
                                   }},
                                  {"triad", 3 * bytes, 1,
                                   [&] {
                                     engine.axpby(0.5, x, 0.5, y);
                                     engine.synchronize();
                                   }}},
                                 repeat);
  return std::max(speeds[0].value, speeds[1].value);
}

std::vector<ProfileRow> profile_rows(const trainer::Engine& engine, int steps, double seconds, const Speeds& speeds) {
  std::vector<ProfileRow> rows;
  ProfileRow rest{"outside of operators", 0, seconds / steps, 0, 0, 0};
  for (const auto& [name, p] : engine.profile()) {
    ProfileRow r{name, static_cast<double>(p.calls), p.seconds, p.cost.bytes, p.cost.flops, 0};
    for (double* x : {&r.calls, &r.seconds, &r.bytes, &r.operations}) *x /= steps;
    r.bound_seconds = std::max(r.bytes / speeds.bytes_per_second, r.operations / speeds.operations_per_second);
    rest.seconds -= r.seconds;
    rows.push_back(std::move(r));
  }
  std::sort(rows.begin(), rows.end(), [](const ProfileRow& a, const ProfileRow& b) { return a.seconds > b.seconds; });
  rest.seconds = std::max(rest.seconds, 0.0);
  rows.push_back(std::move(rest));
  return rows;
}

void print_profile(const std::vector<ProfileRow>& rows, const Speeds& speeds) {
  ProfileRow all{"together", 0, 0, 0, 0, 0};
  for (const ProfileRow& r : rows)
    all.calls += r.calls, all.seconds += r.seconds, all.bytes += r.bytes, all.operations += r.operations,
        all.bound_seconds += r.bound_seconds;
  std::printf("\n%-28s %7s %10s %7s %9s %9s %10s %9s\n", "operator", "calls", "ms a step", "share", "GB", "GFLOP",
              "bound ms", "of bound");
  const auto print = [&](const ProfileRow& r) {
    char reached[16] = "-";
    if (r.bound_seconds > 0 && r.seconds > 0)
      std::snprintf(reached, sizeof reached, "%.0f%%", 100 * r.bound_seconds / r.seconds);
    std::printf("%-28s %7.0f %10.2f %6.1f%% %9.3f %9.2f %10.2f %9s\n", r.name.c_str(), r.calls, 1e3 * r.seconds,
                100 * r.seconds / all.seconds, r.bytes / 1e9, r.operations / 1e9, 1e3 * r.bound_seconds, reached);
  };
  for (const ProfileRow& r : rows) print(r);
  print(all);
  std::printf(
      "bound: the longer of bytes at %.1f GB/s (the faster of copy and triad) and operations at %.0f GFLOP/s (a "
      "large product)\n",
      speeds.bytes_per_second / 1e9, speeds.operations_per_second / 1e9);
}

nlohmann::json profile_json(const std::vector<ProfileRow>& rows) {
  nlohmann::json list = nlohmann::json::array();
  for (const ProfileRow& r : rows)
    list.push_back({{"operator", r.name},
                    {"calls", r.calls},
                    {"seconds", r.seconds},
                    {"bytes", r.bytes},
                    {"operations", r.operations},
                    {"bound_seconds", r.bound_seconds}});
  return list;
}

}  // namespace tenon::bench
