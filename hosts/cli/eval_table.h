// `tenon eval --table`: one model under several quantizers, side by side.
#pragma once

#include "hosts/cli/mix_flags.h"
#include "hosts/trainer/run/evaluate.h"
#include "hosts/trainer/text/data/dataset.h"

namespace tenon::cli {

// Through --kv-cache, where there is one. Throws Usage where it does not go with isolated documents.
trainer::Evaluation evaluate_as_decoded(trainer::Inference& inference, const trainer::Dataset& data, bool isolate, const std::function<void(size_t, size_t)>& progress);

// Prints perplexity, bytes of the blocks' linear weights and decoded tokens per second for each --table SPEC; of those that come in segments
// also under each of --budgets. prompt: ids from which decoding starts.
int eval_table(const po::variables_map& values, const Catalog& catalog, const trainer::ModelSource& source, const trainer::Dataset& data, bool isolate,
               const std::vector<int32_t>& prompt);

}  // namespace tenon::cli
