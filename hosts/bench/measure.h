// Measuring actions that take turns, so that other load on the machine falls on all of them.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace tenon::bench {

// A key ends in its unit: "copy_gigabytes_per_second".
struct Figure {
  std::string key;
  double value;
};
using Figures = std::vector<Figure>;

struct Action {
  std::string key;
  double work;  // bytes, elements or operations of one run
  double unit;  // the figure is work / unit / seconds; 0: the seconds themselves
  std::function<void()> run;
  std::function<void()> before = {};  // not measured
};

// One figure an action, from the median of `repeat` turns after one warm-up.
Figures measure(const std::vector<Action>& actions, int repeat);

double median(std::vector<double> x);
double now();  // seconds of a steady clock

}  // namespace tenon::bench
