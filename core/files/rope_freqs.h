// The frequency factors of Llama 3 rotary scaling, which GGUF stores as the tensor "rope_freqs.weight" (f32, head_dim /
// 2).
#pragma once

#include <vector>

namespace tenon {

// rope_scaling of config.json with rope_type "llama3".
struct Llama3RopeScaling {
  double factor = 8;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  double original_context = 8192;  // original_max_position_embeddings
};

// Factor i divides the angular frequency theta^(-2i / head_dim): 1 for short waves, `factor` for long ones, smooth in
// between.
std::vector<float> llama3_rope_factors(int head_dim, double theta, const Llama3RopeScaling& scaling);

}  // namespace tenon
