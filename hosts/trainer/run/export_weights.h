// The tensors of a model on their way into a file, whatever they come from and whatever the file holds them in.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "hosts/trainer/run/runtime.h"

namespace tenon::trainer {

struct ExportWeight {
  std::string name;  // as in the Hugging Face checkpoint
  std::vector<int64_t> shape;
  uint32_t role = TN_ROLE_OTHER, uid = 0;
  int32_t block = -1;
  bool linear = false;   // one of the seven of a block, which quantizers hold
  bool plain = false;    // one that the source's own quantizer has left out
  bool changed = false;  // differs from what the source holds under that name
  const QuantizedWeight* coded = nullptr;  // the codes of a loaded model, or null
  // out (f32) = rows [begin, end); of a vector, elements.
  std::function<void(int64_t begin, int64_t end, const Tensor& out)> read;

  int64_t rows() const { return shape[0]; }
  int64_t width() const { return shape.size() == 2 ? shape[1] : 1; }
};

using ExportWeights = std::vector<ExportWeight>;

// Of a loaded model. merge: with the deltas of its adapters added in f32; a head and an embedding that are one weight become two where either is
// adapted. The session outlives the list.
ExportWeights weights_of(Session& session, bool merge);

// Whether they hold a head of its own although the source's is tied to the embedding: what config.json has to say.
bool untied(const ExportWeights& weights, const ModelSource& source);

// Straight from the source, one tensor in memory at a time. All arguments outlive the list.
ExportWeights weights_of(Engine& engine, const ModelSource& source, const Runtime& runtime, const Techniques& techniques);

// Every element of a weight in f32: for what has no pieces. Small next to the model.
Tensor whole(Engine& engine, const ExportWeight& weight);

// The weight in `dtype`, in pieces of bounded size, in order.
void write_weight_as(Engine& engine, const ExportWeight& weight, tn_dtype dtype, const std::function<void(ByteSpan)>& write);

}  // namespace tenon::trainer
