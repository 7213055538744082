#include "hosts/bench/measure.h"

#include <algorithm>
#include <chrono>

namespace tenon::bench {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> x) {
  if (x.empty()) return 0;
  std::sort(x.begin(), x.end());
  const size_t half = x.size() / 2;
  return x.size() % 2 ? x[half] : (x[half - 1] + x[half]) / 2;
}

Figures measure(const std::vector<Action>& actions, int repeat) {
  std::vector<std::vector<double>> seconds(actions.size());
  for (int turn = 0; turn <= repeat; ++turn)
    for (size_t i = 0; i < actions.size(); ++i) {
      if (actions[i].before) actions[i].before();
      const double begin = now();
      actions[i].run();
      const double taken = now() - begin;
      if (turn > 0) seconds[i].push_back(taken);
    }
  Figures out;
  for (size_t i = 0; i < actions.size(); ++i) {
    const double m = median(seconds[i]);
    out.push_back({actions[i].key, actions[i].unit == 0 ? m : actions[i].work / actions[i].unit / m});
  }
  return out;
}

}  // namespace tenon::bench
