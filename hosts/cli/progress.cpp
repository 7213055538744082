#include "hosts/cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace tenon::cli {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point a, Clock::time_point b) { return std::chrono::duration<double>(b - a).count(); }

}  // namespace

std::string format_seconds(double s) {
  char text[40];
  const long t = static_cast<long>(s + 0.5);
  if (t >= 3600)
    std::snprintf(text, sizeof text, "%ld h %02ld min", t / 3600, t % 3600 / 60);
  else if (t >= 60)
    std::snprintf(text, sizeof text, "%ld min %02ld s", t / 60, t % 60);
  else
    std::snprintf(text, sizeof text, "%ld s", t);
  return text;
}

ProgressLine::ProgressLine(std::string label) : label_(std::move(label)), terminal_(isatty(STDERR_FILENO) != 0), begin_(Clock::now()), last_(begin_) {}

void ProgressLine::update(double fraction, const std::string& detail) {
  const auto now = Clock::now();
  if (seconds_between(last_, now) < (terminal_ ? 0.1 : 10.0) && fraction < 1) return;
  if (!terminal_ && fraction >= 1 && seconds_between(begin_, now) < 10) return;
  last_ = now;
  const double elapsed = seconds_between(begin_, now);
  const std::string left = fraction > 0 && fraction < 1 ? ", " + format_seconds(elapsed / fraction * (1 - fraction)) + " left" : "";
  char percent[16];
  std::snprintf(percent, sizeof percent, "%3.0f%%", 100 * fraction);
  if (!terminal_) {
    std::fprintf(stderr, "%s %s  %s%s\n", label_.c_str(), percent, detail.c_str(), left.c_str());
    return;
  }
  winsize w{};
  const int columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 20 ? w.ws_col : 80;
  constexpr int kCells = 24;
  std::string bar;
  for (int i = 0; i < kCells; ++i) bar += i < static_cast<int>(fraction * kCells + 0.5) ? "█" : "░";
  std::string tail = "  " + detail + left;
  const int room = columns - static_cast<int>(label_.size()) - kCells - 8;
  if (static_cast<int>(tail.size()) > room) tail.resize(std::max(room, 0));
  std::fprintf(stderr, "\r\033[K%s %s %s%s", label_.c_str(), bar.c_str(), percent, tail.c_str());
  std::fflush(stderr);
  drawn_ = true;
}

void ProgressLine::note(const std::string& line) {
  if (drawn_) std::fputs("\r\033[K", stderr);
  std::fprintf(stderr, "%s\n", line.c_str());
}

void ProgressLine::clear() {
  if (drawn_) std::fputs("\r\033[K", stderr);
  drawn_ = false;
}

}  // namespace tenon::cli
