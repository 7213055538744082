#include "hosts/conformance/slopes.h"

#include <cmath>

#include "hosts/conformance/check.h"
#include "hosts/conformance/numbers.h"

namespace tenon::conformance {
namespace {

using Loss = std::function<double(const std::vector<float>& along, double distance)>;

// Fails where the gradient differs from a slope; false where no slope is resolved.
bool agrees(const std::string& what, const std::vector<float>& gradient, const Loss& loss) {
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
      return true;
    }
  return false;
}

}  // namespace

void expect_gradient(const std::string& what, const std::vector<float>& gradient, const Loss& loss) {
  expect(agrees(what, gradient, loss), "no finite difference resolves " + what + ", so that nothing can be said of it");
}

void expect_gradients(Parameters& parameters, const std::string& setting, const std::function<double()>& loss) {
  size_t trained = 0, resolved = 0;
  for (Parameter& p : parameters) {
    if (!p.trains) continue;
    const std::vector<float> value = p.value->floats();
    ++trained;
    resolved += agrees("the gradient of " + p.key + " with " + setting, p.grad->floats(), [&](const std::vector<float>& along, double distance) {
      p.value->set(plus(value, distance, along));
      const double l = loss();
      p.value->set(value);
      return l;
    });
  }
  expect(2 * resolved >= trained, "finite differences resolve the gradients of " + std::to_string(resolved) + " of " + std::to_string(trained) + " parameters with " + setting +
                                      ", too few to say anything of it");
}

}  // namespace tenon::conformance
