#include "hosts/trainer/run/answers.h"

#include <nlohmann/json.hpp>

namespace tenon::trainer {

using nlohmann::json;

json use_json(const MemoryUse& use) {
  json j;
  for (int c = 0; c < kCategories; ++c) j[category_name(static_cast<Category>(c))] = use.at_peak[c];
  return j;
}

json plan_json(const RunMemory& use, uint64_t limit, const std::vector<Alternative>& ways, int64_t parameters) {
  json j{{"planned_bytes", use.total_peak},
         {"planned_offloaded_bytes", use.offloaded},
         {"fits", limit == 0 || use.total_peak <= limit},
         {"parameters", parameters},
         {"limit", limit},
         {"categories", use_json(use)},
         {"alternatives", json::array()}};
  for (const auto& w : ways) j["alternatives"].push_back({{"flags", w.flags}, {"planned_bytes", w.bytes}, {"fits", w.bytes <= limit}});
  return j;
}

json result_json(const TrainResult& r, int64_t parameters) {
  json j{{"steps", r.steps},
         {"planned_bytes", r.planned.total_peak},
         {"peak_bytes", r.measured.total_peak},
         {"planned_offloaded_bytes", r.planned.offloaded},
         {"offloaded_bytes", r.measured.offloaded},
         {"planned", use_json(r.planned)},
         {"peak", use_json(r.measured)},
         {"tokens_per_second", r.tokens_per_second},
         {"seconds", r.seconds},
         {"trainable_parameters", r.trainable_parameters},
         {"parameters", parameters},
         {"skipped_steps", r.skipped_steps},
         {"stopped", r.stopped},
         {"final", r.final_folder}};
  j["loss"] = r.last_loss ? json(*r.last_loss) : json(nullptr);
  j["evaluations"] = json::array();
  for (const auto& e : r.evaluations) j["evaluations"].push_back({{"step", e.step}, {"loss", e.value.loss}, {"perplexity", e.value.perplexity}});
  return j;
}

}  // namespace tenon::trainer
