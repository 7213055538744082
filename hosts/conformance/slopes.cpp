#include "hosts/conformance/slopes.h"

#include <cmath>

#include "hosts/conformance/check.h"
#include "hosts/conformance/numbers.h"

namespace tenon::conformance {

Slopes compare_slopes(const std::string& what, const std::vector<float>& gradient, const std::function<double(const std::vector<float>&, double)>& loss) {
  const double size = norm(gradient);
  for (const uint32_t stream : {5, 6, 7})
    for (const double step : {4e-3, 2e-2, 1e-3}) {
      const std::vector<float> along = normals(static_cast<int64_t>(gradient.size()), stream);
      const auto central = [&](double h) { return (loss(along, h) - loss(along, -h)) / (2 * h); };
      const double got = dot(gradient, along), wide = central(step), slope = central(step / 2), tolerance = 0.02 * std::fabs(slope) + 0.01 * size;
      // Where differences at two steps disagree, f32 does not resolve the slope there, and they prove nothing.
      if (std::fabs(wide - slope) > tolerance / 2) continue;
      expect(std::fabs(got - slope) <= tolerance,
             what + " is " + std::to_string(got) + " along a random direction where finite differences give " + std::to_string(slope));
      return Slopes::kAgree;
    }
  return Slopes::kUnresolved;
}

}  // namespace tenon::conformance
