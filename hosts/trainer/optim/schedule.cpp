#include "hosts/trainer/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numbers>

#include "core/error.h"

namespace tenon::trainer {
namespace {

constexpr const char* kNames[] = {"constant", "linear", "cosine", "wsd"};  // in the order of ScheduleKind

}  // namespace

double cosine_height(double progress, double floor) {
  return floor + (1 - floor) * 0.5 * (1 + std::cos(std::numbers::pi * progress));
}

double Schedule::at(int64_t s) const {
  if (s <= warmup) return lr * static_cast<double>(s) / static_cast<double>(std::max<int64_t>(warmup, 1));
  if (kind == ScheduleKind::kConstant) return lr;
  const double span = static_cast<double>(std::max<int64_t>(total - warmup, 1));
  const double progress = std::min(1.0, static_cast<double>(s - warmup) / span);
  switch (kind) {
    case ScheduleKind::kLinear: return lr * (floor + (1 - floor) * (1 - progress));
    case ScheduleKind::kCosine: return lr * cosine_height(progress, floor);
    case ScheduleKind::kWsd: {
      const double begin = 1 - decay_fraction;
      if (progress <= begin) return lr;
      return lr * (floor + (1 - floor) * (1 - std::sqrt((progress - begin) / decay_fraction)));
    }
    case ScheduleKind::kConstant: break;
  }
  return lr;
}

const char* schedule_name(ScheduleKind kind) { return kNames[static_cast<size_t>(kind)]; }

ScheduleKind parse_schedule(const std::string& name) {
  const auto found = std::find(std::begin(kNames), std::end(kNames), name);
  if (found == std::end(kNames)) throw Error(TN_E_ARGUMENT, "--schedule " + name + " is not one of constant, linear, cosine, wsd");
  return static_cast<ScheduleKind>(found - std::begin(kNames));
}

}  // namespace tenon::trainer
