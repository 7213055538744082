// A sound adapter that runs the stack of blocks itself, for the gallery: dropout of the input, the blocks one after the other, a norm with a gain of its own.
#pragma once

#include "exhibit.h"
#include "sdk/adapter/dropout.h"
#include "sdk/adapter/initial.h"
#include "sdk/adapter/region.h"

namespace {

using namespace tenon::sdk;

struct Stack {
  static constexpr uint32_t kCaps = 0;

  Stack(const tn_host*, const Hypers&, const char*) {}
  void supports(const tn_query& q) const {
    if (!same(q.compute, kF32)) fail(TN_E_UNSUPPORTED, "the exhibit computes in f32");
  }
  void bind_region(const tn_region_model& model, const tn_region_sink& sink) {
    RegionDeclarer declare(sink);
    gain = declare.param({model.hidden, 0}, "base_model.model.exhibit.norm.weight", 0);
    tokens.resize(model.n_blocks);
  }
  void init_param(const tn_exec* exec, uint32_t, const tn_base_linear*, const tn_rng&, tn_tensor& value) const {
    fill_constant(exec, 1, contiguous<float>(&value, "the gain"), count(value));
  }
  void drop(const Region& r, uint32_t use, tn_tensor& x) const {
    if (r.saves() && !r.plans()) Dropout(0.3).apply(r.exec(), r.rng(use), Matrix::of(x), Matrix::of(x));
  }
  void run_forward(const Region& r, const tn_tensor& x, tn_tensor& y) {
    tn_tensor* h = r.alloc(r.hidden());
    r.axpby(1, x, 0, *h);
    drop(r, 0, *h);
    for (uint32_t b = 0; b < tokens.size(); ++b) {
      tn_tensor* next = r.block(b, TN_BLOCK_WHOLE, *h, r.saves() ? &tokens[b] : nullptr);
      r.free(h);
      h = next;
    }
    rstd = r.norm(*h, &r.value(gain), y);
    if (r.saves())
      last = h;
    else
      r.free(h);
  }
  void run_backward(const Region& r, const tn_tensor& dy, tn_tensor* dx) const {
    tn_tensor* d = r.alloc(r.hidden());
    r.norm_backward(dy, *last, &r.value(gain), *rstd, 0, *d, r.grad(gain));
    for (size_t b = tokens.size(); b-- > 0;) r.block_backward(tokens[b], *d);
    drop(r, 0, *d);
    if (dx) r.axpby(1, *d, 0, *dx);
  }
  void write_config(const tn_sink& sink) const {
    const std::string_view text = "{\"peft_type\": \"EXHIBIT\"}";
    check(sink.write(sink.self, text.data(), text.size()));
  }

  uint32_t gain = 0;
  std::vector<uint64_t> tokens;
  tn_tensor *last = nullptr, *rstd = nullptr;
};

}  // namespace

// The plugin of a class derived from Stack.
#define TENON_STACK(type) TENON_EXTENDED_EXHIBIT(TN_KIND_ADAPTER, region_adapter_api<type>(), TN_EXT_REGION, region_api<type>())
