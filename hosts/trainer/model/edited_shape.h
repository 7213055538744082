// The shape of a model that edits have changed (org.tenon.edits/1): what its config.json says beyond the usual keys.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace tenon::trainer {

struct ModelConfig;

// Boundary b of the residual stream is the input of sub-layer b (attention of block l = 2l, its MLP = 2l + 1); boundary 2·layers is what the final
// norm reads.
struct EditedShape {
  std::vector<int64_t> widths;    // by boundary
  std::vector<double> norm_eps;   // of the norm at each boundary, whose mean is over its own width
  std::vector<bool> maps;         // by sub-layer: a residual map stands in the place of the identity
  std::vector<int64_t> heads, kv_heads, intermediate;  // by block
};

// Every block as the configuration says.
EditedShape unedited_shape(const ModelConfig& config);

// The key of config.json under which the shape stands; hidden_size and its like go on stating what the model was made from.
inline constexpr const char* kEditsKey = "tenon_edits";
nlohmann::json shape_to_json(const EditedShape& shape);
// Refuses every shape that no model can have, in one sentence that names `what`.
EditedShape parse_edited_shape(const nlohmann::json& json, const ModelConfig& config, const std::string& what);

}  // namespace tenon::trainer
