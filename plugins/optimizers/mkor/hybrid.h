// MKOR-H: the preconditioner stays for as long as it pays. Steps come in windows; every fifth runs without the preconditioner, and its relative
// decrease of the loss is compared with the mean of the windows before and after it, so that a curve that flattens favours neither. The
// paper names the idea and no criterion; this one is ours.
#pragma once

#include <cmath>
#include <cstring>
#include <string>

#include "sdk/base.h"

namespace tenon::sdk {

class Hybrid {
 public:
  static constexpr int64_t kPeriod = 5;  // windows

  Hybrid() = default;  // always second order
  Hybrid(int64_t window, double gain) : window_(window), least_(gain) {}

  bool is_on() const { return window_ > 0; }
  bool has_stopped() const { return s_.stopped != 0; }
  // Whether the next updates are preconditioned.
  bool preconditions() const { return !has_stopped() && (!is_on() || !is_probe(s_.steps / window_)); }
  // The gain that was measured last: the share by which preconditioned windows lower the loss faster; 0 before the first.
  double gain() const { return s_.gain; }

  void see(double loss) {
    if (!is_on() || has_stopped()) return;
    const double x = static_cast<double>(s_.steps % window_);
    s_.y += loss, s_.xy += x * loss;
    if (++s_.steps % window_ != 0) return;
    // Minus the slope of the line through the window's losses, over their mean: the relative decrease in a step.
    const double n = static_cast<double>(window_), centre = (n - 1) / 2, spread = n * (n * n - 1) / 12, mean = s_.y / n;
    const double rate = mean > 0 ? -(s_.xy - centre * s_.y) / spread / mean : 0;
    s_.y = s_.xy = 0;
    const int64_t done = s_.steps / window_ - 1;
    if (is_probe(done)) {
      s_.without = rate;
    } else if (done > 0 && is_probe(done - 1)) {
      const double with = (s_.before + rate) / 2;
      s_.gain = (with - s_.without) / (s_.without > 0 ? s_.without : std::fmax(std::fabs(with), 1e-300));
      s_.stopped = s_.gain < least_;
      s_.before = rate;
    } else {
      s_.before = rate;
    }
  }

  void save(std::string& blob) const {
    if (is_on()) blob.append(reinterpret_cast<const char*>(&s_), sizeof s_);
  }
  // Takes its part off the front.
  void load(std::string_view& blob) {
    if (!is_on()) return;
    if (blob.size() < sizeof s_) fail(TN_E_FORMAT, "mkor: the checkpoint was written without hybrid=true; resume with the settings of the run");
    std::memcpy(&s_, blob.data(), sizeof s_);
    blob.remove_prefix(sizeof s_);
  }

 private:
  static bool is_probe(int64_t window) { return window % kPeriod == kPeriod - 1; }
  int64_t window_ = 0;
  double least_ = 0;
  struct State {
    int64_t steps = 0, stopped = 0;
    double y = 0, xy = 0;                         // Σ loss, Σ place · loss of this window
    double before = 0, without = 0, gain = 0;  // rates of the last preconditioned window and of the last probe
  } s_;
};

}  // namespace tenon::sdk
