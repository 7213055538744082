#include "hosts/trainer/run/generate.h"
#include "core/error.h"
#include "hosts/bench/bench.h"

namespace tenon::bench {

Figures generate(trainer::Model& model, const std::vector<int32_t>& prompt, int64_t new_tokens,
                 const Setting& setting) {
  trainer::SamplingOptions options;
  options.max_new_tokens = new_tokens, options.temperature = 0;
  std::vector<double> prompts, decodes;
  for (int turn = 0; turn <= setting.repeat; ++turn) {
    const double begin = now();
    double first = 0, last = 0;
    const std::vector<int32_t> out = trainer::generate(model, prompt, options, [&](int32_t) {
      last = now();
      if (first == 0) first = last;
      return true;
    });
    if (out.size() < 2)
      throw Error(TN_E_ARGUMENT, "decoding is measured from the first new token to the last; ask for two at least");
    if (turn == 0) continue;  // warms up
    prompts.push_back(static_cast<double>(prompt.size()) / (first - begin));
    decodes.push_back(static_cast<double>(out.size() - 1) / (last - first));
  }
  return {{"prompt_tokens_per_second", median(prompts)}, {"decode_tokens_per_second", median(decodes)}};
}

}  // namespace tenon::bench
