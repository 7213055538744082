// Charts as inline SVG. The drawing area is stretched to the page's width and everything with a size of its own (lines,
// dots) keeps it; labels are HTML beside it, so that they are read as well on a phone as on a wide screen.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace tenon::trainer::html {

struct Point {
  double x = 0, y = 0;  // a y that is not finite is a gap
};

// At most `columns` buckets over the range of x, and from each its lowest and highest point in order: spikes survive.
// Gaps do too.
std::vector<Point> thinned(const std::vector<Point>& points, size_t columns);

// Exponential moving averages over about `window` points before and after each, so that it does not lag; gaps are
// stepped over.
std::vector<Point> smoothed(const std::vector<Point>& points, double window);

// Round steps that divide [low, high] into about `wanted` parts: the values inside it.
std::vector<double> ticks(double low, double high, int wanted);

struct Series {
  std::string name;
  std::string style;  // class of the page's style sheet: its colour
  std::vector<Point> points;
  bool line = true, dots = false;
};

using Formatter = std::function<std::string(double)>;

struct LineChart {
  std::string title, unit;     // the unit of y, in words
  std::vector<Series> series;  // drawn in order
  std::vector<double> marks;   // x of small ticks along the bottom
  std::string marks_name;
  Formatter format;        // of what pointing at a dot says
  bool from_zero = false;  // the axis of y begins at 0
  bool wide = false;       // over both columns, and taller
};
// Empty when no series has a finite point.
std::string line_chart(const LineChart& chart);

struct Pair {
  std::string name;
  double planned = 0, measured = 0;
};
// Two bars each, on one scale.
std::string paired_bars(const std::vector<Pair>& pairs, const Formatter& format);

struct Mark {
  double x = 0, y = 0, shade = 0;  // shade from 0 (slow) to 1 (fast)
  std::string label, hint;         // a number or so in the mark, and what pointing at it says
};
struct ScatterChart {
  std::string title, x_name, y_name;
  std::vector<Mark> marks;
  std::vector<Point> front;  // a staircase through these, by x
  double x_unit = 1;         // labels of x are in this unit, which x_name tells
};
std::string scatter_chart(const ScatterChart& chart);

}  // namespace tenon::trainer::html
