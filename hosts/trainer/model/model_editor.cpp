#include "hosts/trainer/model/model_editor.h"

#include <cmath>

#include "core/error.h"
#include "hosts/trainer/model/sequence.h"

namespace tenon::trainer {

ModelEditor::ModelEditor(Engine& engine, Model& model, const EditPlan& plan, const std::vector<std::vector<int32_t>>& sequences)
    : engine_(engine), model_(model), plan_(plan), sequences_(sequences) {
  if (model.attention_plugin_.mixer)
    throw Error(TN_E_CONFLICT, "this quantizer edits a model around attention with q, k, v and o, which --attention replaces here together with its projections; choose another --attention");
  if (model.options_.embeddings)
    throw Error(TN_E_CONFLICT, "this quantizer edits the embedding and the head, which --embeddings would hold in codes; drop --embeddings, or write the model with `tenon quantize` first");
  for (size_t i = 0; i < plan.edits.size(); ++i)
    if (plan.edits[i].kind == TN_EDIT_INPUT || plan.edits[i].kind == TN_EDIT_OUTPUT) last_use_[plan.edits[i].matrix] = i;
}

void ModelEditor::run(const MakeMatrix& make, const std::function<void(size_t, size_t)>& progress) {
  for (auto& b : model_.blocks_) b->config = &model_.block_configs_.emplace_back(model_.config_);
  for (size_t i = 0; i < plan_.edits.size(); ++i) {
    const tn_edit& e = plan_.edits[i];
    apply(e, make);
    if (const auto last = last_use_.find(e.matrix); last != last_use_.end() && last->second == i) matrices_.erase(e.matrix);
    if (progress) progress(i + 1, plan_.edits.size());
  }
  x_.clear();
  model_.config_ = plan_.edited;
  for (auto& b : model_.blocks_) settle_heads(*b);
}

Linear& ModelEditor::linear(uint32_t role, int64_t place) {
  if (role == TN_ROLE_HEAD) return model_.head_;
  if (role != TN_ROLE_OTHER) return model_.blocks_[static_cast<size_t>(place)]->linears[role - TN_ROLE_Q];
  TransformerBlock& b = *model_.blocks_[static_cast<size_t>(place / 2)];
  std::optional<Linear>& map = b.residual[place % 2];
  if (map) return *map;
  map = Model::make_residual_map(b, static_cast<int>(place % 2));
  map->m = map->n = model_.config_.hidden;  // the identity, of the stream as it was
  Parameter& p = model_.parameters_.emplace_back();
  p.name = map->path + ".weight", p.role = map->role, p.block = map->block, p.in_axis = 1;
  p.uid = map->uid = model_.parameters_[model_.parameters_.size() - 2].uid + 1;
  p.value = engine_.zeros(Category::kWeights, kF32, {map->m, map->n});
  std::vector<float> identity(static_cast<size_t>(map->m * map->n));
  for (int64_t k = 0; k < map->n; ++k) identity[static_cast<size_t>(k * map->n + k)] = 1;
  if (!engine_.dry()) engine_.upload(identity.data(), p.value), engine_.synchronize();
  map->weight = &p;
  return *map;
}

const Tensor& ModelEditor::value(uint32_t role, int64_t place) {
  return role == TN_ROLE_EMBEDDING ? model_.embedding_->value : linear(role, place).weight->value;
}

std::vector<Linear*> ModelEditor::behind_norm(int64_t boundary) {
  if (boundary == 2 * model_.config_.layers) return {&model_.head_};
  Linear* const l = model_.blocks_[static_cast<size_t>(boundary / 2)]->linears;
  if (boundary % 2 == 0) return {l + TransformerBlock::kQ, l + TransformerBlock::kK, l + TransformerBlock::kV};
  return {l + TransformerBlock::kGate, l + TransformerBlock::kUp};
}

Parameter& ModelEditor::norm(int64_t boundary) {
  if (boundary == 2 * model_.config_.layers) return *model_.final_norm_;
  TransformerBlock& b = *model_.blocks_[static_cast<size_t>(boundary / 2)];
  return boundary % 2 == 0 ? *b.norm1 : *b.norm2;
}

void ModelEditor::apply(const tn_edit& e, const MakeMatrix& make) {
  switch (e.kind) {
    case TN_EDIT_UNTIE: return untie();
    case TN_EDIT_FOLD_NORM: return fold(e.place);
    case TN_EDIT_NORM_COUNT: return count(e.place, e.count);
    default: return multiply(e, matrix(e.matrix, make));
  }
}

void ModelEditor::untie() {
  if (!model_.head_.tied) return;
  const Tensor& shared = model_.embedding_->value;
  Parameter& p = model_.parameters_.emplace_back();
  p.name = "lm_head.weight", p.role = TN_ROLE_HEAD, p.in_axis = 1;
  p.uid = model_.parameters_[model_.parameters_.size() - 2].uid + 1;
  p.value = engine_.empty(Category::kWeights, shared.dtype(), shared.shape(), shared.ndim());
  engine_.copy(shared, p.value);
  model_.head_.weight = &p, model_.head_.uid = p.uid, model_.head_.tied = model_.lookup_.tied = false;
}

// In f64, rounded once: on the host, since no operator scales columns.
void ModelEditor::fold(int64_t boundary) {
  Parameter& n = norm(boundary);
  std::vector<float> gain(static_cast<size_t>(n.value.count()));
  engine_.download(n.value, gain.data());
  for (Linear* l : behind_norm(boundary)) {
    if (engine_.dry()) continue;
    std::vector<float> w(static_cast<size_t>(l->m * l->n));
    engine_.download(l->weight->value, w.data());
    for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(double{w[i]} * gain[i % gain.size()]);
    engine_.upload(w.data(), l->weight->value), engine_.synchronize();
  }
  engine_.fill_constant(n.value, 1);
}

// x / sqrt(sum(x²) / n + eps) = sqrt(n / w) · x / sqrt(mean(x²) + eps · n / w): the factor goes into what reads it, the rest is a norm like any.
void ModelEditor::count(int64_t boundary, int64_t n) {
  const std::vector<Linear*> readers = behind_norm(boundary);
  const double factor = std::sqrt(static_cast<double>(n) / static_cast<double>(readers[0]->n));
  for (Linear* l : readers) engine_.axpby(factor, l->weight->value, 0, l->weight->value);
  if (boundary < 2 * model_.config_.layers) model_.blocks_[static_cast<size_t>(boundary / 2)]->norm_eps[boundary % 2] = plan_.edited.eps(boundary);
}

void ModelEditor::multiply(const tn_edit& e, const Tensor& m) {
  const int64_t columns = m.dim(1);
  if (e.role == TN_ROLE_EMBEDDING) {
    Tensor& table = model_.embedding_->value;
    const Tensor product = engine_.empty(Category::kWeights, kF32, {table.dim(0), columns});
    engine_.gemm(table, m, product);
    table = product, model_.lookup_.n = columns;
  } else {
    Linear& l = linear(e.role, e.place);
    const bool input = e.kind == TN_EDIT_INPUT;
    const Tensor product = engine_.empty(Category::kWeights, kF32, {input ? l.m : columns, input ? columns : l.n});
    if (input)
      engine_.gemm(l.weight->value, m, product);
    else
      engine_.gemm(m.transposed(), l.weight->value, product);
    l.weight->value = product;
    if (l.bias && !input) {
      const Tensor bias = engine_.empty(Category::kWeights, kF32, {columns});
      engine_.gemm(l.bias->value.reshaped({1, l.m}), m, bias.reshaped({1, columns}));
      l.bias->value = bias;
    }
    (input ? l.n : l.m) = columns;
    if (e.role == TN_ROLE_HEAD)
      settle_norm(*model_.final_norm_, l.n);
    else
      settle(*model_.blocks_[static_cast<size_t>(e.role == TN_ROLE_OTHER ? e.place / 2 : e.place)]);
  }
  if (e.role == TN_ROLE_OTHER || boundary_made(e) != reached_ || reached_ < 0) return;
  for (Tensor& t : x_) {
    const Tensor product = engine_.empty(Category::kActivations, t.dtype(), {t.dim(0), columns});
    engine_.gemm(t, m, product);
    t = product;
  }
}

// A gain that was folded is all ones, whatever its width.
void ModelEditor::settle_norm(Parameter& gain, int64_t width) {
  if (gain.value.dim(0) == width) return;
  gain.value = engine_.empty(Category::kWeights, kF32, {width});
  engine_.fill_constant(gain.value, 1);
}

void ModelEditor::settle(TransformerBlock& b) {
  const Linear* l = b.linears;
  b.width[0] = l[TransformerBlock::kQ].n, b.width[1] = l[TransformerBlock::kO].m, b.width[2] = l[TransformerBlock::kDown].m;
  settle_norm(*b.norm1, b.width[0]), settle_norm(*b.norm2, l[TransformerBlock::kGate].n);
  for (int half = 0; half < 2; ++half) b.sublayers[half].m = b.sublayers[half].n = b.width[half + 1];
}

// Attention and MLP of a block as its weights are now.
void ModelEditor::settle_heads(TransformerBlock& b) {
  ModelConfig& c = model_.block_configs_[static_cast<size_t>(b.index)];
  const int64_t heads = b.linears[TransformerBlock::kQ].m / c.head_dim, kv_heads = b.linears[TransformerBlock::kK].m / c.head_dim;
  c.intermediate = b.linears[TransformerBlock::kGate].m;
  if (heads == c.heads && kv_heads == c.kv_heads) return;
  c.heads = heads, c.kv_heads = kv_heads;
  b.attention.emplace(model_.attention_layer(c, b.index));
}

const Tensor& ModelEditor::matrix(uint32_t id, const MakeMatrix& make) {
  if (const auto found = matrices_.find(id); found != matrices_.end()) return found->second;
  const tn_edit_matrix& m = plan_.matrices[id];
  Tensor statistic;
  int64_t tokens = 0;
  if (m.statistic != TN_EDIT_STATISTIC_NONE) {
    advance(m.boundary);
    statistic = gram(m);
    tokens = pass_.rows() * static_cast<int64_t>(x_.size());
  }
  const Tensor out = engine_.empty(Category::kWorkspace, kF32, {m.rows, m.columns});
  const ReadRows read = [this](uint32_t role, int64_t place, int64_t begin, int64_t end, const Tensor& to) {
    engine_.axpby(1, value(role, place).rows(begin, end), 0, to);
  };
  make(m, statistic, tokens, read, out);
  return matrices_.emplace(id, out).first->second;
}

// Runs the text up to a boundary, through everything edited so far.
void ModelEditor::advance(int64_t boundary) {
  if (reached_ < 0) {
    const auto rows = static_cast<int64_t>(sequences_.at(0).size());
    pass_ = sequence_pass(engine_, 0, rows);
    const Tensor ids = engine_.empty(Category::kActivations, kI32, {rows});
    for (const std::vector<int32_t>& s : sequences_) {
      engine_.upload(s.data(), ids);
      engine_.synchronize();
      x_.push_back(model_.embedded(ids, pass_, 0, nullptr));
    }
    reached_ = 0;
  }
  for (; reached_ < boundary; ++reached_) {
    TransformerBlock& b = *model_.blocks_[static_cast<size_t>(reached_ / 2)];
    settle_heads(b);
    for (Tensor& t : x_) t = reached_ % 2 == 0 ? b.attention_half(engine_, pass_, t, nullptr) : b.mlp_half(engine_, pass_, t, nullptr);
  }
}

Tensor ModelEditor::gram(const tn_edit_matrix& m) {
  const int64_t width = x_.at(0).dim(1);
  const Tensor sum = engine_.zeros(Category::kWorkspace, kF32, {width, width});
  Tensor ones;
  if (m.statistic == TN_EDIT_STATISTIC_NORMALIZED_GRAM) ones = engine_.empty(Category::kWorkspace, kF32, {width}), engine_.fill_constant(ones, 1);
  for (const Tensor& t : x_) {
    Tensor h = t;
    if (ones) {
      h = engine_.empty(Category::kActivations, t.dtype(), t.shape(), t.ndim());
      engine_.rms_norm(t, ones, model_.config_.eps(m.boundary), h, nullptr);
    }
    engine_.gemm(h.transposed(), h, sum, 1, 1);
  }
  return sum;
}

}  // namespace tenon::trainer
