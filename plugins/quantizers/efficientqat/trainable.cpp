// Rounding to nearest, and the training form: the weight, and a scale and a zero point a group, all in f32; and the scales of coded weights.
#include "quantizers/efficientqat/kernels.h"

namespace tenon::efficientqat {
namespace {

using Holder = sdk::QuantizerThunks<Codec>::Holder;
Holder* of(tn_quantizer* self) { return sdk::QuantizerThunks<Codec>::of(self); }

float* take(tn_tensor* t, int64_t n) {
  if (!t) return nullptr;
  float* p = sdk::contiguous<float>(t, "efficientqat: a value of the training form");
  if (sdk::count(*t) != n)
    sdk::fail(TN_E_ARGUMENT, "efficientqat: a value holds " + std::to_string(sdk::count(*t)) + " numbers where " + std::to_string(n) + " belong");
  return p;
}
// The values of a weight, typed and checked.
Values typed(const Sizes& s, tn_tensor* const* values) {
  return {take(values[0], s.m * s.n), take(values[1], s.m * s.groups), take(values[2], s.m * s.groups)};
}

void check_rows(const tn_target& target, const Sizes& s, int64_t begin, int64_t end, const tn_tensor& t) {
  if (begin < 0 || begin > end || end > s.m || sdk::count(t) != (end - begin) * s.n || !sdk::is_contiguous(t))
    sdk::fail(TN_E_ARGUMENT, sdk::name_of(target) + ": rows " + std::to_string(begin) + " to " + std::to_string(end) + " of " + std::to_string(s.m) +
                                 " were passed with a tensor that does not hold them");
}

int32_t plan(tn_quantizer* self, tn_training_plan* out) {
  return sdk::guard(of(self)->host, [&] {
    const Options& o = of(self)->codec.options();
    out->sequences = o.trained ? o.samples : 0, out->length = o.length, out->validation = o.validation;
    out->epochs = o.epochs, out->batch = o.batch, out->floor = 1.0 / 20, out->optimizer = o.optimizer.c_str();
  });
}

int32_t values(tn_quantizer* self, const tn_target* target, const tn_value_sink* sink) {
  return sdk::guard(of(self)->host, [&] {
    const Options& o = of(self)->codec.options();
    const Sizes s(*target, o);
    const tn_value all[] = {{TN_SIZE_TO(tn_value, name), 2, {s.m, s.n, 0, 0}, o.weight_lr, "weight"},
                            {TN_SIZE_TO(tn_value, name), 2, {s.m, s.groups, 0, 0}, o.quant_lr, "scales"},
                            {TN_SIZE_TO(tn_value, name), 2, {s.m, s.groups, 0, 0}, o.quant_lr, "zeros"}};
    for (const tn_value& v : all) sdk::check(sink->declare(sink->self, &v));
  });
}

int32_t start(tn_quantizer* self, const tn_exec* exec, const tn_target* target, const tn_tensor* src, tn_tensor* const* values) {
  return sdk::guard(of(self)->host, [&] {
    const Options& o = of(self)->codec.options();
    const Sizes s(*target, o);
    const Values v = typed(s, values);
    sdk::check_source(*target, *src, s.m * s.n);
    sdk::copy_values(exec, sdk::contiguous<float>(src, "efficientqat: the weight"), v.weight, s.m * s.n);
    find_grids(exec, s, o.top(), v);
    require_finite_scales(exec, *target, s, v.scales);
  });
}

int32_t materialize(tn_quantizer* self, const tn_exec* exec, const tn_target* target, tn_tensor* const* values, int64_t begin, int64_t end, tn_tensor* w) {
  return sdk::guard(of(self)->host, [&] {
    const Options& o = of(self)->codec.options();
    const Sizes s(*target, o);
    const Values v = typed(s, values);
    check_rows(*target, s, begin, end, *w);
    sdk::with_float_type(w->dtype, "efficientqat: a materialized weight", [&](auto type) {
      materialize_rows(exec, s, o.top(), v, begin, end, sdk::data<decltype(type)>(*w));
    });
  });
}

int32_t gradient(tn_quantizer* self, const tn_exec* exec, const tn_target* target, tn_tensor* const* values, const tn_tensor* dw, int64_t begin, int64_t end,
                 tn_tensor* const* dvalues) {
  return sdk::guard(of(self)->host, [&] {
    const Options& o = of(self)->codec.options();
    const Sizes s(*target, o);
    const Values v = typed(s, values), d = typed(s, dvalues);
    check_rows(*target, s, begin, end, *dw);
    add_gradients(exec, s, o.top(), v, sdk::contiguous<float>(dw, "efficientqat: a gradient"), begin, end, d);
  });
}

int32_t clamp(tn_quantizer* self, const tn_exec* exec, const tn_target* target, tn_tensor* const* values) {
  return sdk::guard(of(self)->host, [&] {
    const Options& o = of(self)->codec.options();
    const Sizes s(*target, o);
    clamp_grids(exec, s, o.top(), typed(s, values));
  });
}

int32_t harden(tn_quantizer* self, const tn_exec* exec, const tn_target* target, tn_tensor* const* values, tn_tensor* const* components) {
  return sdk::guard(of(self)->host, [&] {
    const Options& o = of(self)->codec.options();
    const Sizes s(*target, o);
    const Values v = typed(s, values);
    const Parts parts(s, components);
    spoil_bad_groups(exec, s, v);
    require_finite_scales(exec, *target, s, v.scales);
    store(exec, s, o.top(), v, parts);
  });
}

int32_t component_gradient(tn_quantizer* self, const tn_exec* exec, const tn_target* target, tn_tensor* const* components, const tn_tensor* dw,
                           int64_t begin, int64_t end, tn_tensor* const* dcomponents) {
  return sdk::guard(of(self)->host, [&] {
    const Sizes s(*target, of(self)->codec.options());
    const Parts parts(s, components);
    check_rows(*target, s, begin, end, *dw);
    const float* given = sdk::contiguous<float>(dw, "efficientqat: a gradient");
    if (float* const ds = take(dcomponents[1], s.m * s.groups)) add_scale_gradients(exec, s, parts, given, begin, end, ds);
  });
}

}  // namespace

void Codec::encode(const tn_exec* exec, const tn_target& target, const tn_tensor& src, tn_tensor* const* components, const tn_rng*) const {
  const Sizes s(target, options_);
  const Parts parts(s, components);
  sdk::check_source(target, src, s.m * s.n);
  sdk::Workspace w(*exec);
  const Values v = Scratch(w, s).values;
  sdk::convert_values(exec, src, v.weight, "efficientqat: a tensor to quantize");
  find_grids(exec, s, options_.top(), v);
  require_finite_scales(exec, target, s, v.scales);
  store(exec, s, options_.top(), v, parts);
}

// In a function: clang would put a table of external linkage into device code, where its functions are not.
const tn_trainable& trainable_table() {
  static constexpr tn_trainable kTable{TN_SIZE_TO(tn_trainable, component_gradient), 0, plan, values, start, materialize, gradient, clamp, harden, component_gradient};
  return kTable;
}

}  // namespace tenon::efficientqat
