// Learning-rate schedules: pure functions of the step.
#pragma once

#include <cstdint>
#include <string>

namespace tenon::trainer {

enum class ScheduleKind { kConstant, kLinear, kCosine, kWsd };

struct Schedule {
  ScheduleKind kind = ScheduleKind::kCosine;
  double lr = 1e-3;
  int64_t warmup = 0, total = 0;
  double floor = 0;             // of lr, at the end of linear and cosine
  double decay_fraction = 0.1;  // WSD: last share of the steps that decays, as 1 − sqrt

  // The rate of step s, from 1. Warm-up is linear and reaches lr at step `warmup`.
  double at(int64_t s) const;
  // The same as a share of lr.
  double height(int64_t s) const {
    Schedule unit = *this;
    unit.lr = 1;
    return unit.at(s);
  }
};

// Half a cosine, from 1 at progress 0 to `floor` at progress 1.
double cosine_height(double progress, double floor);

// Throws Error for a name that is none of constant, linear, cosine, wsd.
ScheduleKind parse_schedule(const std::string& name);
const char* schedule_name(ScheduleKind kind);

}  // namespace tenon::trainer
