// Time over length of a mixer that owns its projections: a whole sub-layer, projections included.
#include <cmath>
#include <deque>
#include <map>
#include <optional>

#include "core/plugins/host.h"
#include "hosts/bench/bench.h"
#include "hosts/trainer/model/sublayer.h"
#include "hosts/trainer/run/runtime.h"

namespace tenon::bench {
namespace {

using trainer::kF32;
using trainer::Tensor;

constexpr uint32_t kHeads = 9, kKvHeads = 3, kWidth = 64;  // SmolLM2-135M's
constexpr int64_t kHidden = kHeads * kWidth;

class Subject {
 public:
  Subject(trainer::Engine& engine, const trainer::AttentionPlugin& plugin, int64_t tokens) : engine_(engine), api_(plugin.api) {
    const tn_attention_config config{TN_SIZE_TO(tn_attention_config, softcap), kHeads, kKvHeads, kWidth, kWidth, 0, 1, 0, kHeads, 0, 0, 0};
    check(api_->create(host(), plugin.hypers, plugin.n_hypers, &config, &self_), "creating attention");
    std::vector<float> frequencies;
    for (uint32_t i = 0; i < kWidth / 2; ++i) frequencies.push_back(std::pow(10000.0f, -2.0f * static_cast<float>(i) / kWidth));
    const tn_mixer_layer layer{TN_SIZE_TO(tn_mixer_layer, rope_scale), 0, kHidden, 0, frequencies.data(), 1};
    mixer_.emplace(engine, api_, plugin.mixer, self_, layer, [&](const char* spec, const tn_attention_config& c, int64_t window) {
      cores_.push_back(plugin.open(spec, c));
      return trainer::AttentionLayer(cores_.back().first, cores_.back().second, c, window);
    });
    for (uint32_t i = 0; i < 4; ++i) {
      trainer::Linear& l = linears_[i];
      l.role = TN_ROLE_Q + i, l.m = i == 0 || i == 3 ? kHidden : int64_t{kKvHeads} * kWidth, l.n = kHidden;
      l.weight = &random(l.m, l.n);
    }
    for (const auto& d : mixer_->declared()) {
      trainer::Parameter& p = parameters_.emplace_back();
      p.value = d.info.ndim == 1 ? engine.empty(Category::kWeights, kF32, {d.info.shape[0]}) : engine.empty(Category::kWeights, kF32, {d.info.shape[0], d.info.shape[1]});
      p.trainable = !d.is_buffer();
      mixer_->parameters.push_back(&p);
    }
    mixer_->start(engine, {1, 100, 0}, false, [&](uint32_t role, int64_t begin, int64_t end, const Tensor& out) {
      engine.axpby(1, linears_[role - TN_ROLE_Q].weight->value.rows(begin, end), 0, out);
    });
    for (Tensor* t : {&x_, &y_, &dy_, &dx_}) {
      *t = engine.empty(Category::kActivations, kF32, {tokens, kHidden});
      engine.fill_normal(*t, 1, {1, ++uid_, 0});
    }
    std::vector<int32_t> positions(static_cast<size_t>(tokens));
    for (int64_t t = 0; t < tokens; ++t) positions[static_cast<size_t>(t)] = static_cast<int32_t>(t);
    call_.sequences = 1, call_.length = tokens, call_.positions = engine.empty(Category::kActivations, trainer::kI32, {tokens});
    engine.upload(positions.data(), call_.positions);
    call_.linear.flags = TN_CALL_TRAIN | TN_CALL_SAVE;
    call_.linears = linears_, call_.saved_linears = saved_linears_, call_.saved = &saved_;
    forward();  // backward needs what it saves
  }
  ~Subject() {
    api_->destroy(self_);
    for (const auto& [api, core] : cores_) api->destroy(core);
  }
  Subject(const Subject&) = delete;

  void forward() {
    saved_.clear();
    mixer_->forward(engine_, call_, x_, y_);
    engine_.synchronize();
  }
  void backward() {
    mixer_->backward(engine_, call_, x_, dy_, &dx_);
    engine_.synchronize();
  }

 private:
  trainer::Parameter& random(int64_t m, int64_t n) {
    trainer::Parameter& p = parameters_.emplace_back();
    p.value = engine_.empty(Category::kWeights, kF32, {m, n}), p.trainable = true;
    engine_.fill_normal(p.value, 1 / std::sqrt(static_cast<double>(n)), {1, ++uid_, 0});
    return p;
  }
  trainer::Engine& engine_;
  const tn_attention_api* api_;
  tn_attention* self_ = nullptr;
  uint32_t uid_ = 0;
  std::vector<std::pair<const tn_attention_api*, tn_attention*>> cores_;
  std::deque<trainer::Parameter> parameters_;
  trainer::Linear linears_[4];
  trainer::SavedLinear saved_linears_[4];
  std::map<uint32_t, Tensor> saved_;
  std::optional<trainer::SublayerMixer> mixer_;
  trainer::MixerCall call_;
  Tensor x_, y_, dy_, dx_;
};

}  // namespace

Figures mixer_lengths(const Catalog& catalog, const Setting& setting) {
  trainer::MixRequest request;
  request.device = setting.device, request.attention = setting.attention;
  const trainer::Runtime runtime(catalog, request);
  const auto set = runtime.instantiate();
  const auto engine = runtime.engine(kF32, 0, false);
  Figures out;
  for (const int64_t tokens : setting.lengths) {
    Subject subject(*engine, set->techniques.attention, tokens);
    const std::string key = std::to_string(tokens) + "_layer_";
    const Figures f = measure({{key + "forward_seconds", 0, 0, [&] { subject.forward(); }}, {key + "backward_seconds", 0, 0, [&] { subject.backward(); }}}, setting.repeat);
    out.insert(out.end(), f.begin(), f.end());
    out.push_back({key + "tokens_per_second", static_cast<double>(tokens) / (f[0].value + f[1].value)});
  }
  return out;
}

}  // namespace tenon::bench
