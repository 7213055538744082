// A progress bar where a terminal is there, plain lines now and then where not; always on standard error.
#pragma once

#include <chrono>
#include <string>

namespace tenon::cli {

class ProgressLine {
 public:
  explicit ProgressLine(std::string label);
  ~ProgressLine() { clear(); }
  ProgressLine(const ProgressLine&) = delete;

  // fraction in [0, 1]; `detail` stands behind the bar. Drawn at most ten times a second; without a terminal a line every ten seconds.
  void update(double fraction, const std::string& detail);
  // A line above the bar.
  void note(const std::string& line);
  void clear();

 private:
  std::string label_;
  bool terminal_, drawn_ = false;
  std::chrono::steady_clock::time_point begin_, last_;
};

// "1 h 05 min", "12 s".
std::string format_seconds(double seconds);

}  // namespace tenon::cli
