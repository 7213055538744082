// Gradients held to finite differences in f32.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace tenon::conformance {

// How a gradient compares with the slopes of the loss along random directions, whose loss at a distance `loss` gives. Fails where they differ.
enum class Slopes { kAgree, kUnresolved };
Slopes compare_slopes(const std::string& what, const std::vector<float>& gradient, const std::function<double(const std::vector<float>& along, double distance)>& loss);

}  // namespace tenon::conformance
