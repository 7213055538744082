// Generation: prompt in, tokens out, one by one.
#pragma once

#include <functional>
#include <vector>

#include "hosts/trainer/model/model.h"

namespace tenon::trainer {

struct SamplingOptions {
  int64_t max_new_tokens = 128;
  double temperature = 0.8;  // 0: always the likeliest token
  int64_t top_k = 0;         // 0: all
  double top_p = 1;
  uint64_t seed = 0;
  std::vector<int64_t> stop;  // token ids that end the text; not returned
};

// The new tokens. on_token is told each as it comes; answering false stops. The same seed gives the same text.
std::vector<int32_t> generate(Model& model, const std::vector<int32_t>& prompt, const SamplingOptions& options,
                              const std::function<bool(int32_t)>& on_token = {});

}  // namespace tenon::trainer
