#include "hosts/trainer/optim/schedule.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace tenon::trainer {

double Schedule::at(int64_t s) const {
  if (s <= warmup) return lr * static_cast<double>(s) / static_cast<double>(std::max<int64_t>(warmup, 1));
  if (kind == ScheduleKind::kConstant) return lr;
  const double span = static_cast<double>(std::max<int64_t>(total - warmup, 1));
  const double progress = std::min(1.0, static_cast<double>(s - warmup) / span);
  switch (kind) {
    case ScheduleKind::kLinear: return lr * (floor + (1 - floor) * (1 - progress));
    case ScheduleKind::kCosine: return lr * (floor + (1 - floor) * 0.5 * (1 + std::cos(3.14159265358979323846 * progress)));
    case ScheduleKind::kWsd: {
      const double begin = 1 - decay_fraction;
      if (progress <= begin) return lr;
      return lr * (floor + (1 - floor) * (1 - std::sqrt((progress - begin) / decay_fraction)));
    }
    case ScheduleKind::kConstant: break;
  }
  return lr;
}

ScheduleKind parse_schedule(const std::string& name) {
  if (name == "constant") return ScheduleKind::kConstant;
  if (name == "linear") return ScheduleKind::kLinear;
  if (name == "cosine") return ScheduleKind::kCosine;
  if (name == "wsd") return ScheduleKind::kWsd;
  throw Error(TN_E_ARGUMENT, "--schedule " + name + " is not one of constant, linear, cosine, wsd");
}

}  // namespace tenon::trainer
