#include "hosts/trainer/model/edit_plan.h"

#include <algorithm>
#include <map>
#include <utility>

#include "core/error.h"
#include "core/plugins/answer.h"
#include "hosts/trainer/engine/engine.h"

namespace tenon::trainer {
namespace {

bool is_residual_map(const tn_edit& e) { return e.role == TN_ROLE_OTHER; }
bool is_of_block(uint32_t role) { return role >= TN_ROLE_Q && role <= TN_ROLE_DOWN; }

// The sub-layer in which a weight is.
int64_t sublayer_of(const tn_edit& e) { return is_residual_map(e) ? e.place : 2 * int64_t{e.place} + (e.role >= TN_ROLE_GATE ? 1 : 0); }

struct Collected {
  EditPlan* plan;

  static int32_t matrix(void* self, const tn_edit_matrix* m) {
    return answer([&] {
      auto& c = *static_cast<Collected*>(self);
      if (m->id != c.plan->matrices.size()) throw Error(TN_E_ARGUMENT, "it declares matrix ids that are not dense from 0");
      c.plan->matrices.push_back(*m);
    });
  }
  static int32_t edit(void* self, const tn_edit* e) {
    return answer([&] { static_cast<Collected*>(self)->plan->edits.push_back(*e); });
  }
};

// The model's shapes while edits change them.
class Shapes {
 public:
  Shapes(const ModelConfig& config, const Editor& editor, EditPlan& plan) : c_(config), editor_(editor), plan_(plan), shape_(config.edited ? *config.edited : unedited_shape(config)) {
    boundaries_ = static_cast<int64_t>(shape_.widths.size());
    for (int64_t l = 0; l < c_.layers; ++l) {
      const ModelConfig b = c_.of_block(l);
      const int64_t in = c_.width(2 * l), middle = c_.width(2 * l + 1), out = c_.width(2 * l + 2);
      at(TN_ROLE_Q, l) = {b.q_width(), in}, at(TN_ROLE_K, l) = at(TN_ROLE_V, l) = {b.kv_width(), in}, at(TN_ROLE_O, l) = {middle, b.q_width()};
      at(TN_ROLE_GATE, l) = at(TN_ROLE_UP, l) = {b.intermediate, middle}, at(TN_ROLE_DOWN, l) = {out, b.intermediate};
      at(TN_ROLE_OTHER, 2 * l) = {middle, in}, at(TN_ROLE_OTHER, 2 * l + 1) = {out, middle};
    }
    at(TN_ROLE_EMBEDDING, -1) = {c_.width(0), c_.vocab}, at(TN_ROLE_HEAD, -1) = {c_.vocab, c_.width(boundaries_ - 1)};
    folded_.assign(shape_.widths.size(), false), counted_ = folded_;
    tied_ = c_.tied;
  }

  void run() {
    for (n_ = 0; n_ < plan_.edits.size(); ++n_) apply(plan_.edits[n_]);
    for (int64_t s = 0; s + 1 < boundaries_; ++s) agree(s);
    same(width(boundaries_ - 1), at(TN_ROLE_HEAD, -1).second, "the head", boundaries_ - 1);
    same(made(0), width(0), "the embedding", 0);
    if (tied_ && edited_ends_) refuse("changes a tied head or embedding, which must be untied first");
    ModelConfig& out = plan_.edited = c_;
    out.tied = tied_;
    for (int64_t b = 0; b < boundaries_; ++b) shape_.widths[static_cast<size_t>(b)] = width(b);
    for (int64_t l = 0; l < c_.layers; ++l) {
      const auto i = static_cast<size_t>(l);
      shape_.heads[i] = at(TN_ROLE_Q, l).first / c_.head_dim, shape_.kv_heads[i] = at(TN_ROLE_K, l).first / c_.head_dim;
      shape_.intermediate[i] = at(TN_ROLE_GATE, l).first;
    }
    for (int64_t b = 0; b < boundaries_; ++b)
      if (counts_.contains(b))
        shape_.norm_eps[static_cast<size_t>(b)] = c_.eps(b) * static_cast<double>(counts_.at(b)) / static_cast<double>(width(b));
    out.edited = std::make_shared<EditedShape>(shape_);
  }

 private:
  using Shape = std::pair<int64_t, int64_t>;  // outputs, inputs
  Shape& at(uint32_t role, int64_t place) { return weights_[{role, place}]; }

  [[noreturn]] void refuse(const std::string& why) const {
    throw Error(TN_E_UNSUPPORTED, editor_.name + ": edit " + std::to_string(std::min(n_ + 1, plan_.edits.size())) + " of " + std::to_string(plan_.edits.size()) + " " + why);
  }
  // Of the residual stream as the linears behind boundary b read it, and as what lies before it makes it.
  int64_t width(int64_t b) {
    if (b == boundaries_ - 1) return at(TN_ROLE_HEAD, -1).second;
    return at(b % 2 == 0 ? TN_ROLE_Q : TN_ROLE_GATE, b / 2).second;
  }
  int64_t made(int64_t b) {
    if (b == 0) return at(TN_ROLE_EMBEDDING, -1).first;
    return at(b % 2 == 1 ? TN_ROLE_O : TN_ROLE_DOWN, (b - 1) / 2).first;
  }
  void same(int64_t a, int64_t b, const char* of, int64_t place) const {
    if (a != b) refuse("leaves " + std::string(of) + " at boundary " + std::to_string(place) + " with a width of " + std::to_string(b) + " beside " + std::to_string(a));
  }
  // Whether sub-layer s can run.
  void agree(int64_t s) {
    const int64_t l = s / 2, in = width(s), out = made(s + 1);
    same(in, at(TN_ROLE_OTHER, s).second, "the residual map", s), same(out, at(TN_ROLE_OTHER, s).first, "the residual map", s + 1);
    same(made(s), in, "what reads it", s);
    if (s % 2 == 1) {
      same(in, at(TN_ROLE_UP, l).second, "up_proj", s);
      const int64_t wide = at(TN_ROLE_GATE, l).first;
      if (at(TN_ROLE_UP, l).first != wide || at(TN_ROLE_DOWN, l).second != wide) refuse("leaves gate_proj, up_proj and down_proj of block " + std::to_string(l) + " with different widths");
      return;
    }
    same(in, at(TN_ROLE_K, l).second, "k_proj", s), same(in, at(TN_ROLE_V, l).second, "v_proj", s);
    const int64_t q = at(TN_ROLE_Q, l).first, k = at(TN_ROLE_K, l).first;
    if (q % c_.head_dim || k % c_.head_dim || at(TN_ROLE_V, l).first != k || at(TN_ROLE_O, l).second != q || q % k)
      refuse("leaves block " + std::to_string(l) + " with heads that no attention has");
  }

  void apply(const tn_edit& e) {
    switch (e.kind) {
      case TN_EDIT_UNTIE:
        if (edited_ends_) refuse("unties a head that an edit has changed before");
        tied_ = false;
        return;
      case TN_EDIT_FOLD_NORM:
      case TN_EDIT_NORM_COUNT: {
        if (e.place < 0 || e.place >= boundaries_) refuse("names the boundary " + std::to_string(e.place) + " of " + std::to_string(boundaries_));
        if (e.place < reached_) refuse("changes what the text has passed already");
        if (tied_ && e.place == boundaries_ - 1) refuse("changes a tied head, which must be untied first");
        const auto b = static_cast<size_t>(e.place);
        if (e.kind == TN_EDIT_FOLD_NORM) return void(folded_[b] = true);
        if (e.count < 1) refuse("counts " + std::to_string(e.count) + " elements of a norm");
        if (counted_[b]) refuse("counts the elements of a norm for the second time");
        counted_[b] = true, counts_[e.place] = e.count;
        return;
      }
      case TN_EDIT_INPUT:
      case TN_EDIT_OUTPUT: return multiply(e);
      default: refuse("is of the kind " + std::to_string(e.kind) + ", which this version does not know; update tenon");
    }
  }

  void multiply(const tn_edit& e) {
    const auto found = weights_.find({e.role, e.place});
    const bool ends = e.role == TN_ROLE_EMBEDDING || e.role == TN_ROLE_HEAD;
    if (found == weights_.end() || (!ends && !is_residual_map(e) && !is_of_block(e.role)) || (e.role == TN_ROLE_EMBEDDING && e.kind == TN_EDIT_INPUT) ||
        (e.role == TN_ROLE_HEAD && e.kind == TN_EDIT_OUTPUT))
      refuse("names a weight that no edit can change");
    if (e.matrix >= plan_.matrices.size()) refuse("names a matrix that was not declared");
    if (ends && tied_) refuse("changes a tied head or embedding, which must be untied first");
    edited_ends_ = edited_ends_ || ends;
    const tn_edit_matrix& m = plan_.matrices[e.matrix];
    if (known_.size() <= e.matrix) known_.resize(plan_.matrices.size());
    if (!known_[e.matrix]) known_[e.matrix] = true, reach(m);
    int64_t& side = e.kind == TN_EDIT_INPUT ? found->second.second : found->second.first;
    if (m.rows != side || m.columns < 1)
      refuse("multiplies " + std::to_string(side) + " channels by a matrix of " + std::to_string(m.rows) + " rows and " + std::to_string(m.columns) + " columns");
    const int64_t reads = boundary_read(e, c_.layers), makes = boundary_made(e);
    const int64_t last = makes >= 0 ? makes : reads >= 0 ? reads : sublayer_of(e);
    if (last < reached_) refuse("changes what the text has passed already");
    if (reads >= 0 && !is_residual_map(e)) {
      if (!folded_[static_cast<size_t>(reads)]) refuse("multiplies behind the norm at boundary " + std::to_string(reads) + ", whose gain has not been folded");
      if (counted_[static_cast<size_t>(reads)]) refuse("changes the width behind a norm whose elements have been counted");
    }
    if (is_residual_map(e)) shape_.maps[static_cast<size_t>(e.place)] = true;
    if (makes == reached_ && makes >= 0) (is_residual_map(e) ? by_map_ : by_weight_).push_back(e.matrix);
    side = m.columns;
  }

  // The text runs up to the boundary where a matrix wants its statistic.
  void reach(const tn_edit_matrix& m) {
    if (m.statistic == TN_EDIT_STATISTIC_NONE) return;
    if (m.statistic > TN_EDIT_STATISTIC_NORMALIZED_GRAM)
      refuse("wants the statistic " + std::to_string(m.statistic) + ", which this version does not gather; update tenon");
    if (m.boundary < 0 || m.boundary >= boundaries_) refuse("wants a statistic of the boundary " + std::to_string(m.boundary) + " of " + std::to_string(boundaries_));
    if (m.boundary < reached_) refuse("wants a statistic of a boundary that the text has passed already");
    if (m.boundary > reached_) {
      if (reached_ > 0 && by_map_ != by_weight_) refuse("leaves boundary " + std::to_string(reached_) + " where the sub-layer and its residual map were multiplied by different matrices");
      for (int64_t s = std::max<int64_t>(reached_, 0); s < m.boundary; ++s) agree(s);
      reached_ = m.boundary, by_map_.clear(), by_weight_.clear();
    }
  }

  const ModelConfig& c_;
  const Editor& editor_;
  EditPlan& plan_;
  EditedShape shape_;
  int64_t boundaries_ = 0, reached_ = -1;
  std::map<std::pair<uint32_t, int64_t>, Shape> weights_;
  std::vector<bool> folded_, counted_, known_;
  std::map<int64_t, int64_t> counts_;
  std::vector<uint32_t> by_map_, by_weight_;  // matrices by which what makes the boundary reached was multiplied since
  bool tied_ = false, edited_ends_ = false;
  size_t n_ = 0;
};

}  // namespace

int64_t boundary_read(const tn_edit& e, int64_t layers) {
  if (e.kind != TN_EDIT_INPUT) return -1;
  if (is_residual_map(e)) return e.place;
  switch (e.role) {
    case TN_ROLE_Q:
    case TN_ROLE_K:
    case TN_ROLE_V: return 2 * int64_t{e.place};
    case TN_ROLE_GATE:
    case TN_ROLE_UP: return 2 * int64_t{e.place} + 1;
    case TN_ROLE_HEAD: return 2 * layers;
    default: return -1;
  }
}

int64_t boundary_made(const tn_edit& e) {
  if (e.kind != TN_EDIT_OUTPUT) return -1;
  if (e.role == TN_ROLE_EMBEDDING) return 0;
  if (is_residual_map(e)) return int64_t{e.place} + 1;
  return e.role == TN_ROLE_O || e.role == TN_ROLE_DOWN ? sublayer_of(e) + 1 : -1;
}

EditPlan plan_edits(const ModelConfig& c, const Editor& editor) {
  if (c.edited)
    throw Error(TN_E_UNSUPPORTED, editor.name + ": this model has been edited already, and edits are not made on top of others; start from the model that it was made from");
  EditPlan plan;
  Collected collected{&plan};
  const tn_edit_sink sink{sizeof(tn_edit_sink), 0, &collected, Collected::matrix, Collected::edit};
  const tn_edit_model model{sizeof(tn_edit_model), c.tied ? uint32_t{TN_EDIT_MODEL_TIED} : 0u, c.layers, c.hidden, c.intermediate, c.heads, c.kv_heads, c.head_dim, c.vocab,
                            c.norm_eps};
  check(editor.edits->plan(editor.self, &model, &sink), ("planning the edits of " + editor.name).c_str());
  Shapes(c, editor, plan).run();
  return plan;
}

}  // namespace tenon::trainer
