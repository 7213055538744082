// The training form: the weight, and a scale and a zero point a group, all in f32; and the scales of coded weights.
#include "quantizers/efficientqat/store.h"

namespace tenon::efficientqat {
namespace {

using Holder = sdk::QuantizerThunks<Codec>::Holder;
Holder* of(tn_quantizer* self) { return sdk::QuantizerThunks<Codec>::of(self); }

// The values of a weight, typed and checked.
struct Values {
  float *weight, *scales, *zeros;  // [m, n], [m, groups] twice; null where a gradient is not wanted
  Values(const Sizes& s, tn_tensor* const* values) : weight(take(values[0], s.m * s.n)), scales(take(values[1], s.m * s.groups)), zeros(take(values[2], s.m * s.groups)) {}
  static float* take(tn_tensor* t, int64_t n) {
    if (!t) return nullptr;
    float* p = sdk::contiguous<float>(t, "efficientqat: a value of the training form");
    if (sdk::count(*t) != n)
      sdk::fail(TN_E_ARGUMENT, "efficientqat: a value holds " + std::to_string(sdk::count(*t)) + " numbers where " + std::to_string(n) + " belong");
    return p;
  }
};

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
    const Values v(s, values);
    sdk::check_source(*target, *src, s.m * s.n);
    const float* w = sdk::contiguous<float>(src, "efficientqat: the weight");
    sdk::require_finite(*target, w, s.m, s.n);
    std::memcpy(v.weight, w, static_cast<size_t>(s.m * s.n) * sizeof(float));
    const float top = o.top();
    sdk::for_each_block(exec, s.m * s.groups, [=](const sdk::Block& block) {
      const int64_t row = block.index / s.groups, begin = block.index % s.groups * s.group;
      const Grid grid = Grid::of(w + row * s.n + begin, std::min(s.group, s.n - begin), top);
      v.scales[block.index] = grid.scale, v.zeros[block.index] = grid.zero;
    }, s.group);
  });
}

int32_t materialize(tn_quantizer* self, const tn_exec* exec, const tn_target* target, tn_tensor* const* values, int64_t begin, int64_t end, tn_tensor* w) {
  return sdk::guard(of(self)->host, [&] {
    const Options& o = of(self)->codec.options();
    const Sizes s(*target, o);
    const Values v(s, values);
    check_rows(*target, s, begin, end, *w);
    const float top = o.top();
    sdk::with_float_type(w->dtype, "efficientqat: a materialized weight", [&](auto type) {
      using T = decltype(type);
      T* to = sdk::data<T>(*w);
      sdk::for_each_block(exec, (end - begin) * s.groups, [=](const sdk::Block& block) {
        const int64_t row = begin + block.index / s.groups, g = block.index % s.groups, first = g * s.group, n = std::min(s.group, s.n - first);
        const Grid grid(v.scales[row * s.groups + g], v.zeros[row * s.groups + g], top);
        const float* from = v.weight + row * s.n + first;
        T* out = to + (row - begin) * s.n + first;
        for (int64_t j = 0; j < n; ++j) out[j] = sdk::from_float<T>(grid.value(from[j]));
      }, s.group);
    });
  });
}

int32_t gradient(tn_quantizer* self, const tn_exec* exec, const tn_target* target, tn_tensor* const* values, const tn_tensor* dw, int64_t begin, int64_t end,
                 tn_tensor* const* dvalues) {
  return sdk::guard(of(self)->host, [&] {
    const Options& o = of(self)->codec.options();
    const Sizes s(*target, o);
    const Values v(s, values), d(s, dvalues);
    check_rows(*target, s, begin, end, *dw);
    const float* given = sdk::contiguous<float>(dw, "efficientqat: a gradient");
    const float top = o.top();
    sdk::for_each_block(exec, (end - begin) * s.groups, [=](const sdk::Block& block) {
      const int64_t row = begin + block.index / s.groups, g = block.index % s.groups, first = g * s.group, n = std::min(s.group, s.n - first);
      const Grid grid(v.scales[row * s.groups + g], v.zeros[row * s.groups + g], top);
      const float* w = v.weight + row * s.n + first;
      const float* from = given + (row - begin) * s.n + first;
      float* to = d.weight ? d.weight + row * s.n + first : nullptr;
      float ds = 0, dz = 0;
      for (int64_t j = 0; j < n; ++j) {
        const float of_weight = grid.gradient(w[j], from[j], ds, dz);
        if (to) to[j] += of_weight;
      }
      if (d.scales) d.scales[row * s.groups + g] += ds;
      if (d.zeros) d.zeros[row * s.groups + g] += dz;
    }, s.group);
  });
}

int32_t clamp(tn_quantizer* self, const tn_exec* exec, const tn_target* target, tn_tensor* const* values) {
  return sdk::guard(of(self)->host, [&] {
    const Options& o = of(self)->codec.options();
    const Sizes s(*target, o);
    const Values v(s, values);
    const float top = o.top();
    sdk::for_each(exec, s.m * s.groups, [=](int64_t i) {
      v.scales[i] = within(v.scales[i], kLeastScale, kLargestScale);
      v.zeros[i] = within(v.zeros[i], 0, top);
    });
  });
}

int32_t harden(tn_quantizer* self, const tn_exec* exec, const tn_target* target, tn_tensor* const* values, tn_tensor* const* components) {
  return sdk::guard(of(self)->host, [&] {
    const Options& o = of(self)->codec.options();
    const Sizes s(*target, o);
    const Values v(s, values);
    const Parts parts(s, components);
    sdk::require_finite(*target, v.weight, s.m, s.n);
    sdk::require_finite(*target, v.scales, s.m, s.groups);
    const float top = o.top();
    sdk::for_each_block(exec, s.m, [=, &s, &parts](const sdk::Block& row) {
      store_row(s, parts, row.index, v.weight + row.index * s.n,
                [&](int64_t g) { return Grid(v.scales[row.index * s.groups + g], v.zeros[row.index * s.groups + g], top); });
    }, s.n);
  });
}

// ds = Σ over the group of dW · (q − z).
int32_t component_gradient(tn_quantizer* self, const tn_exec* exec, const tn_target* target, tn_tensor* const* components, const tn_tensor* dw,
                           int64_t begin, int64_t end, tn_tensor* const* dcomponents) {
  return sdk::guard(of(self)->host, [&] {
    const Sizes s(*target, of(self)->codec.options());
    const Parts parts(s, components);
    check_rows(*target, s, begin, end, *dw);
    const float* given = sdk::contiguous<float>(dw, "efficientqat: a gradient");
    float* ds = Values::take(dcomponents[1], s.m * s.groups);
    if (!ds) return;
    sdk::for_each_block(exec, end - begin, [=, &s, &parts](const sdk::Block& block) {
      const int64_t row = begin + block.index;
      thread_local sdk::grouped::RowGrid grid;
      grid.read(s, parts, row);
      std::fill(grid.scale.begin(), grid.scale.end(), 1.0f);  // then a decoded value is q − z
      for (int64_t g = 0; g < s.groups; ++g) {
        float sum = 0;
        for (int64_t at = g * s.group; at < std::min(s.n, (g + 1) * s.group);) {
          const int64_t stop = std::min({s.n, (g + 1) * s.group, (at & ~int64_t{7}) + sdk::grouped::kChunk});
          float steps[sdk::grouped::kChunk];
          sdk::grouped::decode_chunk(s, parts, grid, row, at, stop, steps);
          const float* from = given + block.index * s.n + at;
#pragma omp simd reduction(+ : sum)
          for (int64_t j = 0; j < stop - at; ++j) sum += from[j] * steps[j];
          at = stop;
        }
        ds[row * s.groups + g] += sum;
      }
    }, s.n);
  });
}

}  // namespace

const tn_trainable kTrainable{TN_SIZE_TO(tn_trainable, component_gradient), 0, plan, values, start, materialize, gradient, clamp, harden, component_gradient};

}  // namespace tenon::efficientqat
