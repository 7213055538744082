// A sound mixer that owns one projection, for the gallery: y = (x Vᵀ) Wᵀ with the model's V and a W of its own. No token sees another.
#pragma once

#include "exhibit.h"
#include "sdk/for_each.h"
#include "sdk/mixer.h"
#include "sdk/philox.h"

namespace {

using namespace tenon::sdk;

struct Mixer {
  Mixer(const tn_host*, const Hypers&, const tn_attention_config& c) : width(int64_t{c.n_kv_heads} * c.d_v) {}
  void supports(const tn_query& q) const {
    if (!same(q.compute, kF32)) fail(TN_E_UNSUPPORTED, "the exhibit computes on activations in f32");
  }
  void state(const tn_dtype&, int64_t, tn_attention_state& out) const { out.kind = TN_STATE_FIXED, out.bytes = 1; }
  void bind(const tn_mixer_layer& layer, const MixerDeclarer& declare) {
    declare.keep(TN_ROLE_V);
    weight = declare.matrix("mix.weight", layer.hidden, width);
  }
  void start(const MixerPass& p, const tn_rng& rng, bool buffers_only) const {
    if (buffers_only || p.plans()) return;
    float* const to = data<float>(p.value(weight));
    for_each(p.exec(), count(p.value(weight)), [=](int64_t i) { to[i] = 0.1f * normal({rng.seed, rng.uid, rng.stream}, static_cast<uint64_t>(i)); });
  }
  void forward(const MixerPass& p, const tn_tensor& x, tn_tensor& y) const {
    tn_tensor* const v = p.keep(0, width);
    p.linear(TN_ROLE_V, x, *v);
    p.project(weight, *v, y);
  }
  void backward(const MixerPass& p, const tn_tensor& x, const tn_tensor& dy, tn_tensor* dx) const {
    tn_tensor* const dv = p.alloc(width);
    p.project_backward(weight, dy, p.kept(0), 0, dv);
    p.linear_backward(TN_ROLE_V, *dv, x, 0, dx);
  }

  int64_t width;
  uint32_t weight = 0;
};

}  // namespace

// The plugin of a class derived from Mixer.
#define TENON_MIXER(type) TENON_EXTENDED_EXHIBIT(TN_KIND_ATTENTION, mixer_attention_api<type>(), TN_EXT_MIXER, mixer_api<type>())
