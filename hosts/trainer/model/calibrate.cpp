// Calibration: text runs through the model once, and each weight is coded with the inputs that it will really meet (GPTQ's "true sequential"
// order). Between blocks only the hidden states of the text are kept; inside a block, activations of one sequence at a time.
#include "hosts/trainer/model/model.h"

#include <numeric>

#include "core/error.h"

namespace tenon::trainer {

// x: hidden states of each sequence [rows, hidden]; they end as the block's outputs. Each group of linears shares an input, and is coded
// before anything behind it runs.
void TransformerBlock::calibrate(Engine& e, const Pass& pass, std::vector<Tensor>& x, const CodeLinear& code) {
  const int64_t rows = pass.rows();
  const auto activation = [&](int64_t width) { return e.empty(Category::kActivations, e.compute(), {rows, width}); };
  const auto group = [&](std::initializer_list<int> members, const std::function<Tensor(Tensor&)>& input) {
    const int64_t n = linears[*members.begin()].n;
    const Tensor gram = e.zeros(Category::kWorkspace, kF32, {n, n});
    for (Tensor& sequence : x) {
      const Tensor h = input(sequence);
      e.gemm(h.transposed(), h, gram, 1, 1);
    }
    for (int i : members) code(linears[i], gram, rows * static_cast<int64_t>(x.size()));
  };
  const auto normalized = [&](const Tensor& from, const Parameter& norm) {
    const Tensor h = activation(config->hidden);
    e.rms_norm(from, norm.value, config->norm_eps, h, nullptr);
    return h;
  };

  group({kQ, kK, kV}, [&](Tensor& t) { return normalized(t, *norm1); });
  std::vector<Tensor> outputs;
  group({kO}, [&](Tensor& t) {
    SavedBlock s;
    project_qkv(e, pass, normalized(t, *norm1), s, false);
    const Tensor o = e.empty(Category::kActivations, e.compute(), {rows, config->heads, config->head_dim});
    attention->forward(e, pass.sequences, pass.length, pass.length, 0, nullptr, s.q, s.k, s.v, o, nullptr);
    outputs.push_back(o.reshaped({rows, config->q_width()}));
    return outputs.back();
  });
  for (size_t i = 0; i < x.size(); ++i) {
    const Tensor middle = activation(config->hidden);
    linears[kO].forward(e, call_at(pass, 0, false), outputs[i], middle, nullptr);
    e.axpby(1, middle, 1, x[i]);
    outputs[i] = Tensor();
  }
  group({kGate, kUp}, [&](Tensor& t) { return normalized(t, *norm2); });
  group({kDown}, [&](Tensor& t) {
    SavedBlock s;
    mlp_rows(e, pass, 0, t, Tensor(), &s, false);
    e.swiglu(s.gate, s.up, s.gate);
    return s.gate;
  });
  for (Tensor& t : x) t = mlp_half(e, pass, t, nullptr);
}

void Model::calibrate(const std::vector<std::vector<int32_t>>& sequences, const CodeLinear& code, const std::function<void(size_t, size_t)>& progress) {
  if (attention_plugin_.mixer)
    throw Error(TN_E_CONFLICT, "this quantizer is calibrated through attention, which --attention replaces here together with its projections; use a quantizer that needs no calibration");
  const int64_t rows = static_cast<int64_t>(sequences.at(0).size());
  std::vector<int32_t> positions(sequences[0].size());
  std::iota(positions.begin(), positions.end(), 0);
  Pass pass;
  pass.sequences = 1, pass.length = rows;
  pass.positions = engine_.empty(Category::kActivations, kI32, {rows});
  engine_.upload(positions.data(), pass.positions);
  std::vector<Tensor> x;
  const Tensor ids = engine_.empty(Category::kActivations, kI32, {rows});
  for (const std::vector<int32_t>& s : sequences) {
    engine_.upload(s.data(), ids);
    engine_.synchronize();
    x.push_back(engine_.empty(Category::kActivations, engine_.compute(), {rows, config_.hidden}));
    lookup_.forward(engine_, LinearCall{}, ids, x.back(), nullptr);
  }
  for (size_t l = 0; l < blocks_.size(); ++l) {
    blocks_[l]->calibrate(engine_, pass, x, code);
    if (progress) progress(l + 1, blocks_.size());
  }
}

}  // namespace tenon::trainer
