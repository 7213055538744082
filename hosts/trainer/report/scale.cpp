// What charts need before anything is drawn: thinning, smoothing, ticks.
#include <algorithm>
#include <cmath>

#include "hosts/trainer/report/chart.h"

namespace tenon::trainer::html {

std::vector<Point> thinned(const std::vector<Point>& points, size_t columns) {
  if (points.size() <= 2 * columns) return points;
  std::vector<Point> out;
  for (size_t c = 0; c < columns; ++c) {
    const size_t begin = c * points.size() / columns, end = (c + 1) * points.size() / columns;
    size_t low = end, high = end;
    bool gap = false;
    for (size_t i = begin; i < end; ++i) {
      if (!std::isfinite(points[i].y)) {
        gap = true;
        continue;
      }
      if (low == end || points[i].y < points[low].y) low = i;
      if (high == end || points[i].y > points[high].y) high = i;
    }
    if (low == end) {
      out.push_back(points[begin]);
      continue;
    }
    out.push_back(points[std::min(low, high)]);
    if (low != high) out.push_back(points[std::max(low, high)]);
    if (gap) out.push_back({points[end - 1].x, std::nan("")});
  }
  return out;
}

std::vector<Point> smoothed(const std::vector<Point>& points, double window) {
  std::vector<Point> out;
  for (const Point& p : points)
    if (std::isfinite(p.y)) out.push_back(p);
  const double keep = 1 - 2 / (std::max(window, 1.0) + 1);
  std::vector<double> sums(out.size()), weights(out.size());
  double sum = 0, weight = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    sums[i] = sum = keep * sum + (1 - keep) * out[i].y;
    weights[i] = weight = keep * weight + (1 - keep);
  }
  sum = weight = 0;
  for (size_t i = out.size(); i-- > 0;) {
    sum = keep * sum + (1 - keep) * out[i].y, weight = keep * weight + (1 - keep);
    out[i].y = (sums[i] + sum) / (weights[i] + weight);
  }
  return out;
}

std::vector<double> ticks(double low, double high, int wanted) {
  if (!(high > low) || !std::isfinite(high - low)) return {low};
  const double raw = (high - low) / wanted, power = std::pow(10, std::floor(std::log10(raw)));
  double step = 10 * power;
  for (const double nice : {1.0, 2.0, 5.0})
    if (nice * power >= raw * 0.999) {
      step = nice * power;
      break;
    }
  std::vector<double> out;
  for (double k = std::ceil(low / step - 1e-9); k * step <= high + step * 1e-9 && out.size() < 100; ++k)
    out.push_back(k == 0 ? 0 : k * step);
  return out;
}

}  // namespace tenon::trainer::html
