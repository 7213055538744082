#include "hosts/trainer/model/attention.h"

#include <optional>

#include "core/plugins/host.h"
#include "hosts/bench/bench.h"

namespace tenon::bench {
namespace {

using trainer::kBF16;
using trainer::kF32;
using trainer::Tensor;

struct Shape {
  const char* name;
  uint32_t heads, kv_heads, d;
  int64_t tokens;
};
constexpr Shape kShapes[] = {{"smollm2", 9, 3, 64, 1024}, {"llama", 16, 4, 128, 1024}};

// One kernel with its tensors.
class Subject {
 public:
  Subject(trainer::Engine& engine, const trainer::AttentionPlugin& plugin, const Shape& s, int64_t tokens,
          tn_dtype dtype)
      : engine_(engine), api_(plugin.api), tokens_(tokens), dtype_(dtype) {
    const tn_attention_config config{
        TN_SIZE_TO(tn_attention_config, softcap), s.heads, s.kv_heads, s.d, s.d, 0, 1, 0, s.heads, 0, 0, 0};
    check(api_->create(host(), plugin.hypers, plugin.n_hypers, &config, &self_), "creating attention");
    layer_.emplace(api_, self_, config, 0);
    const int64_t q = s.heads, k = s.kv_heads, d = s.d;
    uint32_t uid = 0;
    for (Tensor* t : {&q_, &o_, &d_o_, &dq_}) *t = random(dtype, {tokens, q, d}, ++uid);
    for (Tensor* t : {&k_, &v_, &dk_, &dv_}) *t = random(dtype, {tokens, k, d}, ++uid);
    lse_ = engine.empty(Category::kActivations, kF32, {1, q, tokens});
    forward();  // backward needs o and lse
  }
  ~Subject() { api_->destroy(self_); }
  Subject(const Subject&) = delete;

  void forward() {
    layer_->forward(engine_, 1, tokens_, tokens_, 0, nullptr, q_, k_, v_, o_, &lse_);
    engine_.synchronize();
  }
  void backward() {
    layer_->backward(engine_, 1, tokens_, nullptr, q_, k_, v_, o_, lse_, d_o_, dq_, dk_, dv_);
    engine_.synchronize();
  }
  double forward_operations() const { return layer_->forward_estimate(engine_, 1, tokens_, dtype_).flops; }

 private:
  Tensor random(tn_dtype dtype, std::initializer_list<int64_t> shape, uint32_t uid) {
    const Tensor t = engine_.empty(Category::kActivations, dtype, shape);
    engine_.fill_normal(t, 1, {1, uid, 0});
    return t;
  }
  trainer::Engine& engine_;
  const tn_attention_api* api_;
  tn_attention* self_ = nullptr;
  int64_t tokens_;
  tn_dtype dtype_;
  std::optional<trainer::AttentionLayer> layer_;
  Tensor q_, k_, v_, o_, lse_, d_o_, dq_, dk_, dv_;
};

}  // namespace

Figures attention(const Catalog& catalog, const Setting& setting) {
  trainer::MixRequest request;
  request.device = setting.device;
  const trainer::Runtime runtime(catalog, request);
  const auto set = runtime.instantiate();
  const auto engine = runtime.engine(kF32, 0, false);
  std::vector<std::unique_ptr<Subject>> subjects;
  std::vector<Action> actions;
  for (const Shape& shape : kShapes)
    for (const tn_dtype dtype : {kF32, kBF16}) {
      const int64_t tokens = setting.quick ? 128 : shape.tokens;
      subjects.push_back(std::make_unique<Subject>(*engine, set->techniques.attention, shape, tokens, dtype));
      Subject* const s = subjects.back().get();
      const std::string key = std::string(shape.name) + (dtype.bits == 32 ? "_f32" : "_bf16");
      const double flops = 2.0 * shape.heads * static_cast<double>(tokens) * static_cast<double>(tokens) * shape.d;
      actions.push_back({key + "_forward_gigaflops", flops, 1e9, [s] { s->forward(); }});
      actions.push_back({key + "_backward_gigaflops", 2.5 * flops, 1e9, [s] { s->backward(); }});
    }
  return measure(actions, setting.repeat);
}

Figures attention_lengths(const Catalog& catalog, const Setting& setting) {
  constexpr int64_t kLongestDense = 8192;  // its time grows with the square
  trainer::MixRequest request, dense;
  request.device = dense.device = setting.device, request.attention = setting.attention;
  const trainer::Runtime runtime(catalog, request), exact(catalog, dense);
  const auto set = runtime.instantiate(), exact_set = exact.instantiate();
  if (set->techniques.attention.mixer) return mixer_lengths(catalog, setting);
  const auto engine = runtime.engine(kF32, 0, false);
  const bool compares = request.attention != dense.attention;
  const Shape& shape = kShapes[0];
  Figures out;
  for (const int64_t tokens : setting.lengths) {
    Subject subject(*engine, set->techniques.attention, shape, tokens, kF32);
    std::optional<Subject> peer;
    if (compares && tokens <= kLongestDense)
      peer.emplace(*engine, exact_set->techniques.attention, shape, tokens, kF32);
    const std::string key = std::to_string(tokens) + "_";
    std::vector<Action> actions{{key + "forward_seconds", 0, 0, [&] { subject.forward(); }},
                                {key + "backward_seconds", 0, 0, [&] { subject.backward(); }}};
    if (peer) {
      actions.push_back({key + "exact_forward_seconds", 0, 0, [&] { peer->forward(); }});
      actions.push_back({key + "exact_backward_seconds", 0, 0, [&] { peer->backward(); }});
    }
    const Figures f = measure(actions, setting.repeat);
    out.insert(out.end(), f.begin(), f.end());
    const double n = static_cast<double>(tokens), pairs = n * (n + 1) / 2,
                 share = subject.forward_operations() / (2.0 * shape.heads * pairs * 2 * shape.d);
    out.push_back({key + "tokens_per_second", n / (f[0].value + f[1].value)});
    out.push_back({key + "share_of_exact_operations", share});
    if (!peer) continue;
    out.push_back({key + "forward_time_over_share", f[0].value / (share * f[2].value)});
    out.push_back({key + "backward_time_over_share", f[1].value / (share * f[3].value)});
  }
  return out;
}

}  // namespace tenon::bench
