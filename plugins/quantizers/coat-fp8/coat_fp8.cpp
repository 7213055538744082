// The coat-fp8 quantizer (Xi et al. 2024): optimizer states in E4M3 with range expansion, saved activations in E4M3, products of FP8.
#include "quantizers/coat-fp8/state.h"
#include "quantizers/coat-fp8/weights.h"
#include "sdk/activation.h"
#include "tenon/input_rounding.h"

namespace tenon::coat {
namespace {

constexpr char kId[] = "coat-fp8";

// How a saved activation is held: in groups along the channels, under one scale, or, attention's operands, as bf16.
enum class Form { kGroups, kWhole, kBf16 };

class Codec {
 public:
  static constexpr uint32_t kSites = TN_SITE_WEIGHT | TN_SITE_OPTIMIZER_STATE | TN_SITE_ACTIVATION;

  Codec(const tn_host*, const sdk::Hypers& h) : expand_(h.flag("expand")), width_(std::stoll(std::string(h.text("group")))) {}

  void supports(const tn_query& query) const { sdk::require_floats(query, kId); }

  void plan(const tn_target& target, const tn_component_sink& sink) const {
    if (target.site == TN_SITE_WEIGHT) return Weight(target).plan(sink);
    if (target.site == TN_SITE_ACTIVATION) return declare(groups_of(target), Form::kGroups, sink);
    const int64_t n = sdk::elements(target), groups = sdk::ceil_div(n, kStateGroup);
    sdk::declare(sink, "codes", sdk::kU8, n, 8);
    sdk::declare(sink, "scale", sdk::kF32, groups);
    sdk::declare(sink, "expansion", sdk::kF32, groups);
    sdk::declare(sink, "middle", sdk::kF32, groups);
  }
  void estimate(const tn_device_api* api, tn_device* device, const tn_target& target, uint32_t op, int64_t rows, tn_estimate& out) const {
    if (target.site == TN_SITE_WEIGHT) return Weight(target).estimate(api, device, op, rows, out);
    if (op != TN_QUANTIZER_ENCODE && op != TN_QUANTIZER_DECODE) sdk::fail(TN_E_UNSUPPORTED, "coat-fp8 has products of weights alone; decode and multiply");
    if (target.site == TN_SITE_ACTIVATION) return estimate(groups_of(target), Form::kGroups, target.dtype, op, out);
    const double n = static_cast<double>(sdk::elements(target)), groups = static_cast<double>(sdk::ceil_div(sdk::elements(target), kStateGroup));
    const uint64_t state = static_cast<uint64_t>(n) + 12 * static_cast<uint64_t>(groups);
    sdk::set_estimate(out, 50 * n, (target.dtype.bits / 8.0 + 1) * n + 12 * groups, state, op == TN_QUANTIZER_ENCODE ? sdk::FirstBad::kBytes : 0);
  }
  void encode(const tn_exec* exec, const tn_target& target, const tn_tensor& src, tn_tensor* const* components, const tn_rng*) const {
    if (target.site == TN_SITE_WEIGHT) return Weight(target).encode(exec, src, components);
    if (target.site == TN_SITE_ACTIVATION) return code(exec, target, groups_of(target), Form::kGroups, src, components);
    const int64_t n = sdk::elements(target);
    sdk::check_source(target, src, n);
    uint8_t* const codes = sdk::component<uint8_t>(components, 0, "codes", n);
    const StateGroups groups = groups_from(components, n);
    if (n == 0) return;
    sdk::FirstBad bad(exec);
    sdk::with_float_type(src.dtype, "coat-fp8: an optimizer state", [&](auto type) {
      using T = decltype(type);
      encode_state(exec, sdk::data<const T>(src), n, expand_, codes, groups, bad.found());
    });
    bad.raise(target, kStateGroup);
  }
  void decode(const tn_exec* exec, const tn_target& target, tn_tensor* const* components, int64_t begin, int64_t end, tn_tensor& dst) const {
    const int64_t n = sdk::elements(target);
    sdk::check_range(target, n, begin, end, dst);
    if (target.site == TN_SITE_WEIGHT) return Weight(target).decode(exec, components, begin, end, dst);
    if (target.site == TN_SITE_ACTIVATION) return restore(exec, groups_of(target), Form::kGroups, components, begin, end, dst);
    const uint8_t* const codes = sdk::component<uint8_t>(components, 0, "codes", n);
    const StateGroups groups = groups_from(components, n);
    sdk::with_float_type(dst.dtype, "coat-fp8: a decoded state", [&](auto type) {
      decode_state(exec, codes, groups, begin, end, sdk::data<decltype(type)>(dst));
    });
  }

  void linear(const tn_exec* exec, const tn_target& target, tn_tensor* const* components, const tn_tensor& x, double alpha, double beta, tn_tensor& y) const {
    Weight(target).linear(exec, components, x, alpha, beta, y);
  }

  void token(const tn_activation& what, const tn_component_sink& sink) const { declare(groups_of(what), form_of(what), sink); }
  void estimate_activation(const tn_activation& what, uint32_t op, tn_estimate& out) const {
    estimate(groups_of(what), form_of(what), what.dtype, op, out);
  }
  void save(const tn_exec* exec, const tn_activation& what, const tn_tensor& x, tn_tensor* const*, tn_tensor* const* token, const tn_rng*) const {
    code(exec, sdk::target_of(what), groups_of(what), form_of(what), x, token);
  }
  void restore(const tn_exec* exec, const tn_activation& what, tn_tensor* const* token, tn_tensor& x) const {
    const Groups g = groups_of(what);
    sdk::check_range(sdk::target_of(what), g.count(), 0, g.count(), x);
    restore(exec, g, form_of(what), token, 0, g.count(), x);
  }

 private:
  static Form form_of(const tn_activation& a) {
    if (a.use == TN_ACTIVATION_ATTENTION_OPERAND) return Form::kBf16;
    return a.use == TN_ACTIVATION_LINEAR_INPUT ? Form::kWhole : Form::kGroups;
  }
  Groups groups_of(const tn_target& t) const {
    const int64_t n = sdk::elements(t), channels = t.ndim > 0 ? t.shape[t.ndim - 1] : 1;
    return {channels > 0 ? n / channels : 0, channels, width_};
  }
  Groups groups_of(const tn_activation& a) const {
    sdk::elements(sdk::target_of(a));
    return {a.rows, a.channels, form_of(a) == Form::kGroups ? width_ : 0};
  }
  static StateGroups groups_from(tn_tensor* const* components, int64_t n) {
    const int64_t groups = sdk::ceil_div(n, kStateGroup);
    return {sdk::component<float>(components, 1, "scale", groups), sdk::component<float>(components, 2, "expansion", groups),
            sdk::component<float>(components, 3, "middle", groups)};
  }
  static void declare(const Groups& g, Form form, const tn_component_sink& sink) {
    if (form == Form::kBf16) return sdk::declare(sink, "values", sdk::kBF16, g.count());
    sdk::declare(sink, "codes", sdk::kU8, g.count(), 8);
    sdk::declare(sink, "scale", sdk::kBF16, g.scales());
  }
  static void estimate(const Groups& g, Form form, tn_dtype dtype, uint32_t op, tn_estimate& out) {
    const double n = static_cast<double>(g.count()), value = dtype.bits / 8.0;
    const uint64_t count = static_cast<uint64_t>(g.count());
    const uint64_t state = form == Form::kBf16 ? 2 * count : count + 2 * static_cast<uint64_t>(g.scales());
    const bool twice = form == Form::kWhole && op == TN_QUANTIZER_ENCODE;
    const uint64_t partial = twice ? sizeof(float) * static_cast<uint64_t>(sdk::ceil_div(g.count(), kBlockElements)) : 0;
    sdk::set_estimate(out, 10 * n, (twice ? 2 : 1) * value * n + static_cast<double>(state), state,
                      op == TN_QUANTIZER_ENCODE ? sdk::FirstBad::kBytes + partial : 0);
  }
  static void code(const tn_exec* exec, const tn_target& target, const Groups& g, Form form, const tn_tensor& x, tn_tensor* const* token) {
    const int64_t n = g.count();
    sdk::check_source(target, x, n);
    if (form == Form::kBf16) {
      sdk::bf16* const to = sdk::component<sdk::bf16>(token, 0, "values", n);
      return sdk::with_float_type(x.dtype, "coat-fp8: a saved activation", [&](auto type) {
        using T = decltype(type);
        sdk::for_each(exec, n, CopyValues<T, sdk::bf16>{sdk::data<const T>(x), to});
      });
    }
    uint8_t* const codes = sdk::component<uint8_t>(token, 0, "codes", n);
    sdk::bf16* const scales = sdk::component<sdk::bf16>(token, 1, "scale", g.scales());
    if (n == 0) return;
    sdk::FirstBad bad(exec);
    float* const partial = reinterpret_cast<float*>(static_cast<char*>(exec->workspace) + sdk::FirstBad::kBytes);
    sdk::with_float_type(x.dtype, "coat-fp8: a saved activation", [&](auto type) {
      using T = decltype(type);
      if (form == Form::kGroups)
        encode_groups(exec, g, sdk::data<const T>(x), codes, scales, bad.found());
      else
        encode_whole(exec, n, sdk::data<const T>(x), partial, codes, scales, bad.found());
    });
    bad.raise(target, form == Form::kGroups ? g.width : n);
  }
  static void restore(const tn_exec* exec, const Groups& g, Form form, tn_tensor* const* token, int64_t begin, int64_t end, tn_tensor& dst) {
    const int64_t n = g.count();
    sdk::with_float_type(dst.dtype, "coat-fp8: a restored activation", [&](auto type) {
      using T = decltype(type);
      if (form == Form::kBf16) {
        const sdk::bf16* const from = sdk::component<sdk::bf16>(token, 0, "values", n);
        return sdk::for_each(exec, end - begin, CopyValues<sdk::bf16, T>{from + begin, sdk::data<T>(dst)});
      }
      const uint8_t* const codes = sdk::component<uint8_t>(token, 0, "codes", n);
      const sdk::bf16* const scales = sdk::component<sdk::bf16>(token, 1, "scale", g.scales());
      decode_values(exec, g, codes, scales, begin, end, sdk::data<T>(dst));
    });
  }

  bool expand_;
  int64_t width_;
};

constexpr tn_hyper_info kExpand = sdk::flag("expand", "true", "stretch the range of each group of states to that of E4M3; false: plain E4M3 with a scale a group"),
                        kGroup = sdk::choice("group", "16", "16|32|64|128", "channels of an activation that share a scale");
constexpr const tn_hyper_info* kHypers[] = {&kExpand, &kGroup};
constexpr tn_quantizer_api kApi = sdk::quantizer_api<Codec>();
constexpr tn_activation_codec kActivation = sdk::activation_codec<Codec>();
constexpr tn_input_rounding kRounding = {TN_SIZE_TO(tn_input_rounding, share), 0, 0x1p-4};  // half a step of three bits of mantissa
const void* extension(const char* id) {
  const std::string_view name(id);
  return name == TN_EXT_ACTIVATION ? static_cast<const void*>(&kActivation) : name == TN_EXT_INPUT_ROUNDING ? &kRounding : nullptr;
}
constexpr tn_plugin kPlugin = sdk::describe(TN_KIND_QUANTIZER, kId, "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::coat

TENON_PLUGIN(tenon::coat::kPlugin)
