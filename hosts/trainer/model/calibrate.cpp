// Calibration: text runs through the model once, and each weight is coded with its inputs (by GPTQ's "true sequential" order those that it
// will really meet). Between blocks only the hidden states of the text are kept; inside a block, activations of one sequence at a time.
#include "hosts/trainer/model/model.h"

#include "core/error.h"
#include "hosts/trainer/model/sequence.h"
#include "hosts/trainer/model/statistic.h"

namespace tenon::trainer {

// x: hidden states of each sequence [rows, hidden]; they end as the block's outputs. Each group of linears shares an input, and is coded
// before anything behind it runs.
void TransformerBlock::calibrate(Engine& e, const Pass& pass, std::vector<Tensor>& x, const BlockCoder& coder) {
  const int64_t rows = pass.rows();
  const auto activation = [&](int64_t width) { return e.empty(Category::kActivations, e.compute(), {rows, width}); };
  const auto group = [&](std::initializer_list<int> members, const std::function<Tensor(Tensor&)>& input) {
    InputStatistic statistic(e, coder.statistic, linears[*members.begin()].n);
    for (Tensor& sequence : x) statistic.add(e, input(sequence));
    const Tensor& gathered = statistic.finish(e);
    for (int i : members) coder.code(linears[i], gathered, statistic.tokens());
  };
  const auto normalized = [&](const Tensor& from, int half) {
    const Tensor h = activation(width[half]);
    e.rms_norm(from, (half == 0 ? norm1 : norm2)->value, norm_eps[half], h, nullptr);
    return h;
  };

  group({kQ, kK, kV}, [&](Tensor& t) { return normalized(t, 0); });
  std::vector<Tensor> outputs;
  group({kO}, [&](Tensor& t) {
    SavedBlock s;
    project_qkv(e, pass, normalized(t, 0), s, false);
    const Tensor o = e.empty(Category::kActivations, e.compute(), {rows, config->heads, config->head_dim});
    attention->forward(e, pass.sequences, pass.length, pass.length, 0, nullptr, s.q, s.k, s.v, o, nullptr);
    outputs.push_back(o.reshaped({rows, config->q_width()}));
    return outputs.back();
  });
  for (size_t i = 0; i < x.size(); ++i) {
    const Tensor middle = activation(width[1]);
    linears[kO].forward(e, call_at(pass, 0, false), outputs[i], middle, nullptr);
    add_residual(e, 0, x[i], middle);
    x[i] = middle;
    outputs[i] = Tensor();
  }
  group({kGate, kUp}, [&](Tensor& t) { return normalized(t, 1); });
  group({kDown}, [&](Tensor& t) {
    SavedBlock s;
    mlp_rows(e, pass, 0, t, Tensor(), &s, false);
    e.swiglu(s.gate, s.up, s.gate);
    return s.gate;
  });
  for (Tensor& t : x) t = mlp_half(e, pass, t, nullptr);
}

StandIns::StandIns(Engine& e, TransformerBlock& block) : block_(block), weights_(std::size(block.linears)) {
  for (size_t i = 0; i < weights_.size(); ++i) {
    Linear& l = block.linears[i];
    Parameter& p = weights_[i];
    p.name = l.path + ".weight", p.uid = l.uid, p.role = l.role, p.block = l.block;
    p.value = e.empty(Category::kWorkspace, e.compute(), {l.m, l.n});
    l.weight = &p;
  }
}

StandIns::~StandIns() {
  for (Linear& l : block_.linears) l.weight = nullptr;
}

void StandIns::fill(Engine& e, const std::function<Tensor(const Linear&)>& dense) {
  for (size_t i = 0; i < weights_.size(); ++i) e.axpby(1, dense(block_.linears[i]), 0, weights_[i].value);
}

void Model::calibrate(const std::vector<std::vector<int32_t>>& sequences, const BlockCoder& coder, const std::function<void(size_t, size_t)>& progress) {
  if (attention_plugin_.mixer)
    throw Error(TN_E_CONFLICT, "this quantizer is calibrated through attention, which --attention replaces here together with its projections; use a quantizer that needs no calibration");
  const int64_t rows = static_cast<int64_t>(sequences.at(0).size());
  const Pass pass = sequence_pass(engine_, 0, rows);
  std::vector<Tensor> x;
  const Tensor ids = engine_.empty(Category::kActivations, kI32, {rows});
  for (const std::vector<int32_t>& s : sequences) {
    engine_.upload(s.data(), ids);
    engine_.synchronize();
    x.push_back(embedded(ids, pass, 0, nullptr));
  }
  std::vector<Tensor> coded;  // of blocks in training: what reaches them through those coded before
  if (!coder.statistic)
    for (const Tensor& t : x) {
      coded.push_back(engine_.empty(Category::kActivations, t.dtype(), {rows, config_.width(0)}));
      engine_.copy(t, coded.back());
    }
  for (size_t l = 0; l < blocks_.size(); ++l) {
    if (!coder.statistic) {
      coder.train(*blocks_[l], pass, x, coded);
    } else if (coder.plain_prefix) {
      StandIns plain(engine_, *blocks_[l]);
      plain.fill(engine_, coder.dense);
      blocks_[l]->calibrate(engine_, pass, x, coder);
    } else {
      blocks_[l]->calibrate(engine_, pass, x, coder);
    }
    if (progress) progress(l + 1, blocks_.size());
  }
}

}  // namespace tenon::trainer
