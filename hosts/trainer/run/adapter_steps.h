// What adapters do between steps, and their parameters that grow (org.tenon.steps/1).
#pragma once

#include <vector>

#include "hosts/trainer/model/linear.h"

namespace tenon::trainer {

// After a step's update; answers the parameters that grew, whose optimizer states must follow.
std::vector<Parameter*> end_step(Engine& engine, Adapter& adapter, int64_t step, int64_t total_steps, uint64_t seed);
// Grows to the largest that training may come to: of the memory forecast.
void grow_to_largest(Engine& engine, Adapter& adapter);

// The adapter's state between steps. Loading brings the shapes back and answers what grew.
std::vector<std::byte> save_steps(const Adapter& adapter);
std::vector<Parameter*> load_steps(Engine& engine, Adapter& adapter, const std::vector<std::byte>& bytes);

}  // namespace tenon::trainer
