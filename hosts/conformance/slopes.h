// Gradients held to finite differences in f32.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "hosts/conformance/pass.h"

namespace tenon::conformance {

// Fails where a gradient differs from the slopes of the loss along random directions, whose loss at a distance `loss` gives, or where f32
// resolves none of these slopes. `what`: "dx with the defaults".
void expect_gradient(const std::string& what, const std::vector<float>& gradient, const std::function<double(const std::vector<float>& along, double distance)>& loss);

// The same for the gradient of each parameter that trains, of which f32 need resolve half. `loss` is of the values at its call.
void expect_gradients(Parameters& parameters, const std::string& setting, const std::function<double()>& loss);

}  // namespace tenon::conformance
