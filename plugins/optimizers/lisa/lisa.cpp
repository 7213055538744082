// LISA (Pan et al. 2024): embedding, head and what lies outside the stack always train; of the blocks, `activated_layers` are drawn
// every `interval_steps` optimizer steps and the others are frozen: no gradient, no state. What trains is updated by an inner optimizer.
#include <map>
#include <set>

#include "sdk/blob.h"
#include "sdk/draw.h"
#include "sdk/inner.h"
#include "sdk/optimizer.h"
#include "sdk/parameters.h"

namespace tenon::sdk {
namespace {

constexpr tn_hyper_info kInner = hyper_inner("adamw"),
                        kLayers = integer("activated_layers", "2", 1, 1e6, "blocks", "blocks that train at a time; all of them where there are fewer"),
                        kInterval = integer("interval_steps", "20", 1, 1e12, "steps", "optimizer steps between two draws"),
                        kProbs = text("probs", "uniform", "uniform, or one weight per block: 3;1;1;2"),
                        kCarry = choice("carry", "drop", "drop|keep", "states of a block that leaves: freed, or kept for its return"),
                        kEmbed = flag("train_embed", "true", "the embedding always trains (a tied head with it)"),
                        kHead = flag("train_head", "true", "the head always trains");
constexpr const tn_hyper_info* kHypers[] = {&kLayers, &kInterval, &kProbs, &kCarry, &kEmbed, &kHead, &kInner};

std::vector<double> parse_weights(std::string_view text) {
  std::vector<double> weights;
  if (text == "uniform") return weights;
  const std::string all(text);
  for (const char* at = all.c_str(); *at;) {
    char* end = nullptr;
    const double w = std::strtod(at, &end);
    if (end == at || !(w >= 0) || w > 1e30 || (*end && *end != ';'))
      fail(TN_E_ARGUMENT, "lisa: probs=" + all + " is neither uniform nor a list of weights of at least 0 such as 3;1;1;2");
    weights.push_back(w);
    at = *end ? end + 1 : end;
  }
  return weights;
}

class Lisa {
 public:
  static constexpr uint32_t kCaps = TN_OPTIMIZER_ONE_AT_A_TIME;

  Lisa(const tn_host* host, const Hypers& h)
      : inner_(host, "lisa", h.text("inner")),
        layers_(static_cast<size_t>(h.integer("activated_layers"))),
        interval_steps_(h.integer("interval_steps")),
        weights_(parse_weights(h.text("probs"))),
        keep_(h.text("carry") == "keep"),
        train_embed_(h.flag("train_embed")),
        train_head_(h.flag("train_head")) {}

  void supports(const tn_query& q) const { inner_.supports(q); }

  void bind(const tn_param* const* params, uint64_t n) {
    inner_.bind(params, n);
    blocks_.clear(), uids_.clear();
    for (uint64_t i = 0; i < n; ++i)
      if (params[i]->block >= 0) blocks_[params[i]->block] = 0;
    size_t position = 0;
    for (auto& [block, at] : blocks_) at = position++;
    if (!weights_.empty() && weights_.size() != blocks_.size())
      fail(TN_E_ARGUMENT, "lisa: probs lists " + std::to_string(weights_.size()) + " weights, and " + std::to_string(blocks_.size()) + " blocks train in this run");
    for (uint64_t i = 0; i < n; ++i) {
      const tn_param& p = *params[i];
      const bool always = p.role == TN_ROLE_EMBEDDING ? train_embed_ : p.role == TN_ROLE_HEAD ? train_head_ : true;
      uids_[p.uid] = p.block >= 0 ? static_cast<int64_t>(blocks_.at(p.block)) : always ? kAlways : kNever;
    }
    active_.assign(blocks_.size(), false), visited_.assign(blocks_.size(), false);
    interval_ = -1;
  }

  void state_layout(uint32_t uid, const tn_state_sink& sink) const {
    if (holds_states(uid)) inner_.state_layout(uid, sink);
  }
  void estimate(const tn_device_api* api, tn_device* device, uint32_t uid, tn_estimate& out) const {
    inner_.estimate(api, device, uid, out);
    if (!holds_states(uid)) out.state_bytes = 0;
  }

  void plan(const tn_step& step, const tn_plan_sink& sink) {
    const int64_t interval = (step.step - 1) / interval_steps_;
    const bool drawn = interval != interval_ || seed_ != step.seed;
    const std::vector<bool> before = active_, held = visited_;
    if (drawn) draw(step.seed, interval);
    std::set<uint32_t> through;
    for (const auto& [uid, at] : uids_) {
      uint32_t flags = trains(at) ? 0 : uint32_t{TN_PLAN_FREEZE};
      if (drawn && at >= 0 && (keep_ ? held[at] != visited_[at] : before[at] != active_[at])) flags |= TN_PLAN_STATES_CHANGED;
      if (trains(at)) through.insert(uid);
      if (flags) check(sink.param(sink.self, uid, flags));
    }
    Filter filter{&sink, &through};
    const tn_plan_sink inner{TN_SIZE_TO(tn_plan_sink, param), 0, &filter, Filter::param};
    inner_.plan(step, inner);
  }
  int32_t prepare(const tn_exec* exec, const tn_item* const* items, uint64_t n) const { return inner_.prepare(exec, items, n); }
  int32_t apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) const {
    for (uint64_t i = 0; i < n; ++i) {
      const auto at = uids_.find(items[i]->uid);
      if (at == uids_.end() || !trains(at->second))
        fail(TN_E_STATE, "lisa: an item came for a parameter that is frozen in this step; ask plan before each step");
    }
    return inner_.apply(exec, items, n);
  }
  void finish(const tn_step& step, tn_advice& advice) const {
    inner_.finish(step, advice);
    check(advice.metric(advice.self, "interval", static_cast<double>(interval_)));
    int shown = 0;
    for (const auto& [block, at] : blocks_)
      if (active_[at] && shown < 8) check(advice.metric(advice.self, ("block" + std::to_string(++shown)).c_str(), block));
  }

  void save(const tn_sink& sink) const {
    BlobWriter out;
    out.put(seed_), out.put(interval_), out.put(static_cast<uint64_t>(visited_.size()));
    for (const bool v : visited_) out.put(static_cast<uint8_t>(v));
    out.put(inner_.save());
    out.write(sink);
  }
  void load(const void* bytes, uint64_t n) {
    BlobReader in(bytes, n, "lisa");
    const auto seed = in.get<uint64_t>();
    const auto interval = in.get<int64_t>();
    const auto count = in.get<uint64_t>();
    if (count != visited_.size()) in.damaged();
    std::vector<bool> visited;
    for (uint64_t i = 0; i < count; ++i) visited.push_back(in.get<uint8_t>() != 0);
    const std::string inner = in.text();
    in.end();
    inner_.load(inner);
    if (interval >= 0)
      draw(seed, interval);
    else
      active_.assign(blocks_.size(), false), interval_ = -1;
    visited_ = visited;
  }

 private:
  static tn_rng draw_key(uint64_t seed, int64_t interval) { return {seed, 0x4C495341, static_cast<uint32_t>(interval)}; }  // draws belong to no tensor

  static constexpr int64_t kAlways = -1, kNever = -2;  // else: position of the block

  struct Filter {  // hands on what the inner plan says about parameters that train
    const tn_plan_sink* to;
    const std::set<uint32_t>* through;
    static int32_t param(void* self, uint32_t uid, uint32_t flags) {
      const auto& f = *static_cast<const Filter*>(self);
      return f.through->contains(uid) ? f.to->param(f.to->self, uid, flags) : int32_t{TN_OK};
    }
  };

  void draw(uint64_t seed, int64_t interval) {
    std::vector<double> weights = weights_.empty() ? std::vector<double>(blocks_.size(), 1.0) : weights_;
    active_.assign(blocks_.size(), false);
    for (const size_t at : draw_distinct(draw_key(seed, interval), std::move(weights), layers_)) active_[at] = visited_[at] = true;
    seed_ = seed, interval_ = interval;
  }
  bool trains(int64_t at) const { return at == kAlways || (at >= 0 && active_[at]); }
  bool holds_states(uint32_t uid) const {
    const auto found = uids_.find(uid);
    if (found == uids_.end()) fail(TN_E_NOT_FOUND, "no parameter with uid " + std::to_string(uid) + " is bound");
    return trains(found->second) || (keep_ && found->second >= 0 && visited_[found->second]);
  }

  Inner inner_;
  size_t layers_;
  int64_t interval_steps_;
  std::vector<double> weights_;  // per block in order; empty: uniform
  bool keep_, train_embed_, train_head_;
  std::map<int32_t, size_t> blocks_;  // index in the model -> position
  std::map<uint32_t, int64_t> uids_;
  std::vector<bool> active_, visited_;
  uint64_t seed_ = 0;
  int64_t interval_ = -1;
};

constexpr tn_optimizer_api kApi = optimizer_api<Lisa>();
constexpr tn_plugin kPlugin = describe(TN_KIND_OPTIMIZER, "lisa", "0.9.0", kHypers, &kApi);

}  // namespace
}  // namespace tenon::sdk

TENON_PLUGIN(tenon::sdk::kPlugin)
