// The mesa-act8 quantizer (Pan et al. 2021): saved activations in 8 bits on the running range of their group.
#include "quantizers/mesa-act8/kernels.h"
#include "sdk/activation.h"

namespace tenon::mesa {
namespace {

class Codec {
 public:
  static constexpr uint32_t kSites = TN_SITE_ACTIVATION;

  Codec(const tn_host*, const sdk::Hypers& h)
      : group_(h.integer("group")), decay_(static_cast<float>(h.real("decay"))), stochastic_(h.flag("stochastic")), running_(h.flag("running")) {}

  void supports(const tn_query& query) const { sdk::require_floats(query, "mesa-act8"); }

  void plan(const tn_target& target, const tn_component_sink& sink) const { declare(shape_of(target), sink); }
  void token(const tn_activation& what, const tn_component_sink& sink) const { declare(shape_of(what), sink); }
  void statistics(const tn_activation& what, const tn_component_sink& sink) const {
    if (running_) sdk::declare(sink, "range", sdk::kF32, 2 * shape_of(what).groups);
  }

  void estimate(const tn_device_api*, tn_device*, const tn_target& target, uint32_t op, int64_t, tn_estimate& out) const {
    estimate(shape_of(target), target.dtype, op, out);
  }
  void estimate_activation(const tn_activation& what, uint32_t op, tn_estimate& out) const { estimate(shape_of(what), what.dtype, op, out); }

  // On the range of this tensor alone.
  void encode(const tn_exec* exec, const tn_target& target, const tn_tensor& src, tn_tensor* const* components, const tn_rng* rng) const {
    code(exec, target, shape_of(target), src, nullptr, components, rng);
  }
  void decode(const tn_exec* exec, const tn_target& target, tn_tensor* const* components, int64_t begin, int64_t end, tn_tensor& dst) const {
    const Shape s = shape_of(target);
    sdk::check_range(target, s.count(), begin, end, dst);
    restore(exec, s, components, begin, end, dst);
  }

  void save(const tn_exec* exec, const tn_activation& what, const tn_tensor& x, tn_tensor* const* statistics, tn_tensor* const* token,
            const tn_rng* rng) const {
    const Shape s = shape_of(what);
    float* const running = running_ ? sdk::component<float>(statistics, 0, "range", 2 * s.groups) : nullptr;
    code(exec, sdk::target_of(what), s, x, running, token, rng);
  }
  void restore(const tn_exec* exec, const tn_activation& what, tn_tensor* const* token, tn_tensor& x) const {
    const Shape s = shape_of(what);
    sdk::check_range(sdk::target_of(what), s.count(), 0, s.count(), x);
    restore(exec, s, token, 0, s.count(), x);
  }

 private:
  // The last axis holds the channels.
  Shape shape_of(const tn_target& t) const {
    const int64_t n = sdk::elements(t), channels = t.ndim > 0 ? t.shape[t.ndim - 1] : 1;
    return {channels > 0 ? n / channels : 0, channels, 0, group_};
  }
  Shape shape_of(const tn_activation& a) const {
    sdk::elements(sdk::target_of(a));
    if (a.heads < 0 || (a.heads > 0 && a.channels % a.heads != 0))
      sdk::fail(TN_E_ARGUMENT, "mesa-act8: " + std::to_string(a.channels) + " channels cannot be shared out among " + std::to_string(a.heads) + " heads");
    return {a.rows, a.channels, a.heads, group_};
  }
  static void declare(const Shape& s, const tn_component_sink& sink) {
    sdk::declare(sink, "codes", sdk::kU8, s.count(), 8);
    sdk::declare(sink, "grid", sdk::kF32, kGridFloats * s.groups);
  }
  void estimate(const Shape& s, tn_dtype dtype, uint32_t op, tn_estimate& out) const {
    if (op != TN_QUANTIZER_ENCODE && op != TN_QUANTIZER_DECODE) sdk::fail(TN_E_UNSUPPORTED, "mesa-act8 has no product of its own; decode and multiply");
    const double n = static_cast<double>(s.count()), bytes = dtype.bits / 8.0;
    const bool codes = op == TN_QUANTIZER_ENCODE;
    const uint64_t workspace = codes ? sdk::FirstBad::kBytes + sizeof(float) * 2 * static_cast<uint64_t>(row_blocks(s) * s.groups) : 0;
    sdk::set_estimate(out, codes ? 8 * n : 2 * n, (codes ? 2 * bytes + 1 : bytes + 1) * n,
                      static_cast<uint64_t>(s.count()) + sizeof(float) * kGridFloats * static_cast<uint64_t>(s.groups), workspace);
  }
  void code(const tn_exec* exec, const tn_target& target, const Shape& s, const tn_tensor& x, float* running, tn_tensor* const* components,
            const tn_rng* rng) const {
    sdk::check_source(target, x, s.count());
    uint8_t* const codes = sdk::component<uint8_t>(components, 0, "codes", s.count());
    float* const grids = sdk::component<float>(components, 1, "grid", kGridFloats * s.groups);
    if (s.count() == 0) return;
    const int64_t words = 2 * row_blocks(s) * s.groups;
    float* const partial = reinterpret_cast<float*>(sdk::workspace<char>(exec, sdk::FirstBad::kBytes + static_cast<int64_t>(sizeof(float)) * words) +
                                                    sdk::FirstBad::kBytes);
    sdk::FirstBad bad(exec);
    const tn_rng key = rng ? *rng : tn_rng{};
    sdk::with_float_type(x.dtype, "mesa-act8: a saved activation", [&](auto type) {
      using T = decltype(type);
      find_ranges(exec, s, sdk::data<const T>(x), partial, bad.found());
    });
    bad.raise(target, s.count());  // before the statistics move
    make_grids(exec, s, partial, running, decay_, grids);
    sdk::with_float_type(x.dtype, "mesa-act8: a saved activation", [&](auto type) {
      using T = decltype(type);
      mesa::encode(exec, s, sdk::data<const T>(x), grids, stochastic_, key, codes);
    });
  }
  static void restore(const tn_exec* exec, const Shape& s, tn_tensor* const* components, int64_t begin, int64_t end, tn_tensor& dst) {
    const uint8_t* const codes = sdk::component<uint8_t>(components, 0, "codes", s.count());
    const float* const grids = sdk::component<float>(components, 1, "grid", kGridFloats * s.groups);
    sdk::with_float_type(dst.dtype, "mesa-act8: a restored activation", [&](auto type) {
      mesa::decode(exec, s, codes, grids, begin, end, sdk::data<decltype(type)>(dst));
    });
  }

  int64_t group_;
  float decay_;
  bool stochastic_, running_;
};

constexpr tn_hyper_info kGroup = sdk::integer("group", "128", 1, 1 << 20, "channels", "channels that share a range; of attention's operands a head"),
                        kDecay = sdk::real("decay", "0.9", 0, 1, TN_RANGE_OPEN_MAX, nullptr, "how much of the running range stays at each call"),
                        kStochastic = sdk::flag("stochastic", "true", "round up with the probability of the remainder: unbiased gradients; false: to nearest"),
                        kRunning = sdk::flag("running", "true", "code on the running range; false: on that of each tensor");
constexpr const tn_hyper_info* kHypers[] = {&kGroup, &kDecay, &kStochastic, &kRunning};
constexpr tn_quantizer_api kApi = sdk::quantizer_api<Codec>();
constexpr tn_activation_codec kActivation = sdk::activation_codec<Codec>();
const void* extension(const char* id) { return std::string_view(id) == TN_EXT_ACTIVATION ? &kActivation : nullptr; }
constexpr tn_plugin kPlugin = sdk::describe(TN_KIND_QUANTIZER, "mesa-act8", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::mesa

TENON_PLUGIN(tenon::mesa::kPlugin)
