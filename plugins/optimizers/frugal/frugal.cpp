// FRUGAL (Zmushko et al. 2024): a changing part of every linear weight of a block has Adam's states, the rest takes a
// sign step. Everything else is AdamW.
#include <memory>

#include "optimizers/frugal/coordinates.h"
#include "optimizers/frugal/projection.h"
#include "optimizers/frugal/turns.h"
#include "sdk/blob.h"
#include "sdk/optimizer.h"

namespace tenon::sdk {
namespace {

constexpr tn_hyper_info
    kSplit =
        choice("split", "columns", "columns|rows|randk|svd|random|randperm|block",
               "what has states: columns, rows or elements drawn at random; a projection on singular vectors, a "
               "random subspace or unit vectors; whole tensors in turns"),
    kDensity = real("density", "0.25", 0, 1, 0, nullptr, "the part that has states"),
    kGap = integer("update_gap", "200", 1, 9007199254740992.0, "steps", "updates of a parameter between two choices"),
    kOrder = choice("block_order", "random", "random|ascending|descending|mirror",
                    "whose turn it is under split=block; mirror: first, last, second, last but one, ..."),
    kReset = flag("reset_statistics", "true", "a new choice starts with states of zero"),
    kRule = choice("inactive_update_rule", "sign_sgd", "sign_sgd|sgd|no", "what moves the rest"),
    kInactive = real("inactive_lr_scale", "1", 0, kInfinity, TN_RANGE_OPEN_MAX, nullptr,
                     "factor of the rest's rate: 1 for pretraining, 0.1 for fine-tuning"),
    kScale = real("proj_params_lr_scale", "1", 0, kInfinity, TN_RANGE_OPEN_MAX, nullptr,
                  "factor of the split parameters' rate"),
    kSide =
        choice("proj_side", "std", "std|reverse_std|left|right", "projections: the side split; std = the shorter one"),
    kEps = hyper_eps("1e-8"), kWeightDecay = hyper_weight_decay("0");
constexpr const tn_hyper_info* kHypers[] = {
    &kSplit, &kDensity,          &kGap,        &kReset,      &kRule, &kInactive,   &kScale, &kOrder,
    &kSide,  &galore::kHyperSvd, &kHyperBeta1, &kHyperBeta2, &kEps,  &kWeightDecay};

class Frugal {
 public:
  static constexpr uint32_t kCaps = TN_OPTIMIZER_ONE_AT_A_TIME;

  Frugal(const tn_host*, const Hypers& h)
      : coder_(std::make_unique<Adam8Coder>()), turns_(h.real("density"), order_of(h.text("block_order"))) {
    using namespace frugal;
    s_.adam = {h.real("beta1"), h.real("beta2"), h.real("eps"), h.real("weight_decay")};
    const auto split = h.text("split"), rule = h.text("inactive_update_rule"), side = h.text("proj_side");
    s_.split = split == "columns"  ? Split::kColumns
               : split == "rows"   ? Split::kRows
               : split == "randk"  ? Split::kRandK
               : split == "svd"    ? Split::kSvd
               : split == "random" ? Split::kRandom
               : split == "block"  ? Split::kBlock
                                   : Split::kRandPerm;
    s_.inactive = rule == "no" ? Inactive::kNo : rule == "sgd" ? Inactive::kSgd : Inactive::kSignSgd;
    s_.fixed_side = side == "left" || side == "right", s_.left = side == "left", s_.reverse = side == "reverse_std";
    s_.density = h.real("density"), s_.gap = h.integer("update_gap"), s_.reset = h.flag("reset_statistics");
    s_.scale = h.real("proj_params_lr_scale"), s_.inactive_scale = h.real("inactive_lr_scale");
    projection_.adam = s_.adam, projection_.scale = 1, projection_.gap = s_.gap, projection_.basis_dtype = kF32;
    projection_.moments = s_.reset ? galore::Moments::kReset : galore::Moments::kKeep;
    projection_.svd = galore::svd_of(h.text("svd"));
  }

  void supports(const tn_query& q) const { supports_dense("frugal", q); }
  void bind(const tn_param* const* params, uint64_t n) {
    parameters_.bind("frugal", params, n);
    std::vector<uint32_t> split;
    for (uint64_t i = 0; i < n; ++i)
      if (is_split(parameters_.at(params[i]->uid))) split.push_back(params[i]->uid);
    turns_.bind(std::move(split));
  }

  // Under split=block the states of whole tensors come and go.
  void plan(const tn_step& step, const tn_plan_sink& sink) {
    if (!in_turns() || turns_.uids().empty()) return;
    const int64_t round = (step.step - 1) / s_.gap;
    if (round == turns_.round() && step.seed == turns_.seed()) return;
    const frugal::Turns before = turns_;
    turns_.take(step.seed, round);
    for (const uint32_t uid : turns_.uids()) {
      const bool held = before.has_states(uid), holds = turns_.has_states(uid);
      if (held != holds || (holds && s_.reset)) check(sink.param(sink.self, uid, TN_PLAN_STATES_CHANGED));
    }
    refreshes_.add({.happened = true, .energy = s_.density});
  }

  void state_layout(uint32_t uid, const tn_state_sink& sink) const {
    const Parameters::Entry& e = parameters_.at(uid);
    if (!is_split(e)) return adam_declare(sink, e.info);
    if (in_turns()) {
      if (turns_.has_states(uid)) adam_declare(sink, e.info);
      return;
    }
    const int64_t m = e.info.shape[0], n = e.info.shape[1];
    if (!s_.is_projected(m, n)) return frugal::Coordinates(s_, m, n).declare(sink);
    const Projection p(*this, m, n);
    galore::declare_states(p.plan, sink);
  }

  void estimate(const tn_device_api* api, tn_device* device, uint32_t uid, tn_estimate& out) const {
    const Parameters::Entry& e = parameters_.at(uid);
    if (!is_split(e)) return adam_estimate(e, out);
    if (in_turns()) {
      adam_estimate(e, out);
      if (!turns_.has_states(uid)) out.state_bytes = 0, out.flops = 3 * static_cast<double>(e.n);
      return;
    }
    const int64_t m = e.info.shape[0], n = e.info.shape[1];
    const double all = static_cast<double>(e.n), weights = 3 * all * e.info.dtype.bits / 8;
    Workspace measure;
    if (s_.is_projected(m, n)) {
      const Projection p(*this, m, n);
      p.lay_out(measure);
      galore::estimate(p.plan, galore::Buffers(p.plan, measure), Products(api, device), e, out);
      out.flops += 2 * all * static_cast<double>(p.plan.r) + 4 * all;
      return;
    }
    const frugal::Coordinates c(s_, m, n);
    const frugal::Draw draw(c, measure);
    out.state_bytes = c.index_bytes() + 8 * static_cast<uint64_t>(c.states());
    out.workspace_bytes = measure.peak();
    out.flops = 14.0 * static_cast<double>(c.states()) + 3 * all;
    out.bytes_moved = 16.0 * static_cast<double>(c.states()) + static_cast<double>(c.index_bytes()) + weights;
  }

  int32_t apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) {
    int32_t status = TN_OK;
    for (uint64_t i = 0; i < n; ++i) {
      const tn_item& item = *items[i];
      const Parameters::Entry& e = parameters_.check(item);
      if (!item.grad || e.n == 0) continue;
      if (!is_split(e))
        adam_update(exec, s_.adam, item, false);
      else if (in_turns())
        update_in_turns(exec, item);
      else if (!update(exec, e.info.shape[0], e.info.shape[1], item))
        status = TN_DEGRADED;
    }
    return status;
  }
  void save(const tn_sink& sink) const {
    BlobWriter out;
    out.put(turns_.seed()), out.put(turns_.round());
    out.write(sink);
  }
  void load(const void* bytes, uint64_t n) {
    if (n == 0) return;  // of a run before `block` came
    BlobReader in(bytes, n, "frugal");
    const auto seed = in.get<uint64_t>();
    const auto round = in.get<int64_t>();
    in.end();
    if (in_turns() && round >= 0 && !turns_.uids().empty()) turns_.take(seed, round);
  }
  void finish(const tn_step&, tn_advice& advice) { refreshes_.report(advice, "frugal_refreshes", "frugal_energy"); }

 private:
  // A matrix that is projected: its rank follows from its shape.
  struct Projection {
    galore::Settings settings;
    galore::Plan plan;
    Projection(const Frugal& f, int64_t m, int64_t n)
        : settings(f.projection_), plan((prepare(f, m, n), settings), m, n) {}
    Projection(const Projection&) = delete;
    std::pair<float*, float*> lay_out(Workspace& w) const {
      float* kept = w.take<float>(plan.projected());
      return {kept, w.take<float>(plan.tile_rows() * plan.n)};
    }

   private:
    void prepare(const Frugal& f, int64_t m, int64_t n) {
      settings.rank = f.s_.rank(m, n);
      settings.side = f.s_.is_left(m, n) ? galore::Side::kLeft : galore::Side::kRight;
    }
  };

  static frugal::Order order_of(std::string_view text) {
    using enum frugal::Order;
    return text == "ascending" ? kAscending : text == "descending" ? kDescending : text == "mirror" ? kMirror : kRandom;
  }
  bool in_turns() const { return s_.split == frugal::Split::kBlock; }
  void update_in_turns(const tn_exec* exec, const tn_item& item) const {
    const frugal::Numbers a(s_, item, item.t);
    if (!turns_.has_states(item.uid)) return update_outside(exec, a, item);
    if (item.n_states != 2) fail(TN_E_STATE, "frugal: a tensor whose turn it is came without its states; ask plan before each step");
    update_inside(exec, a, item, item.t == 1);
  }
  bool is_split(const Parameters::Entry& e) const { return is_block_linear(e.info) && e.n > 0; }

  bool update(const tn_exec* exec, int64_t m, int64_t n, const tn_item& item) {
    const int64_t round = (item.t - 1) / s_.gap, since = item.t - round * s_.gap, updates = s_.reset ? since : item.t;
    // The same numbers in every update of a round, and others than those of any step.
    const tn_rng draw{item.rng.seed, item.rng.uid, 0x80000000u | static_cast<uint32_t>(round)};
    if (item.n_states < 3)
      fail(TN_E_ARGUMENT,
           "frugal: an item came with " + std::to_string(item.n_states) + " states, state_layout declared more");
    Workspace workspace(*exec);
    if (s_.is_projected(m, n)) {
      const Projection p(*this, m, n);
      const auto [kept, inside] = p.lay_out(workspace);
      return refreshes_.add(
          frugal::Projected(exec, p.plan, *coder_, item, s_, updates, draw, kept, inside, workspace).run());
    }
    const frugal::Coordinates c(s_, m, n);
    if (since == 1) choose(exec, c, draw, item, workspace);
    update_coordinates(exec, c, frugal::Numbers(s_, item, updates), item);
    return true;
  }

  void choose(const tn_exec* exec, const frugal::Coordinates& c, const tn_rng& rng, const tn_item& item,
              Workspace& workspace) {
    const frugal::Draw draw(c, workspace);
    if (c.split == frugal::Split::kRandK)
      choose_elements(exec, c, rng, contiguous<uint8_t>(item.states[0], "chosen"));
    else
      choose_axis(exec, c, rng, draw, data<int32_t>(*item.states[0]));
    refreshes_.add({.happened = true, .energy = s_.density});
    if (!s_.reset) return;
    for (uint32_t k = 1; k < 3; ++k) fill_device(exec, state_of(item, k, c.states()).f32, 0, static_cast<uint64_t>(c.states()) * sizeof(float));
  }

  frugal::Settings s_{};
  galore::Settings projection_{};
  std::unique_ptr<Adam8Coder> coder_;
  Parameters parameters_;
  galore::Refreshes refreshes_;
  frugal::Turns turns_;
};

constexpr tn_optimizer_api kApi = optimizer_api<Frugal>();
constexpr tn_plugin kPlugin = describe(TN_KIND_OPTIMIZER, "frugal", "0.9.0", kHypers, &kApi);

}  // namespace
}  // namespace tenon::sdk

TENON_PLUGIN(tenon::sdk::kPlugin)
