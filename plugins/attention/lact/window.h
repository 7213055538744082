// Causal softmax attention over a sliding window beside the fast weights: the model's own attention, by a core kernel of the host.
#pragma once

#include <limits>
#include <string_view>

#include "kernels.h"
#include "sdk/mixer.h"

namespace tenon::lact {

class Window {
 public:
  Window(const tn_attention_config& config, int64_t tokens) : config_(config), tokens_(tokens) {}

  bool on() const { return tokens_ > 0; }
  int64_t tokens() const { return tokens_; }

  void bind(const tn_mixer_layer& layer, const sdk::MixerDeclarer& declare, std::string_view core) {
    if (!on()) return;
    if (layer.window > 0) tokens_ = std::min(tokens_, layer.window);
    tn_attention_config c = config_;
    c.struct_size = TN_SIZE_TO(tn_attention_config, softcap);
    c.scale = (c.scale != 0 ? c.scale : 1 / std::sqrt(static_cast<double>(c.d_qk))) * layer.rope_scale * layer.rope_scale;
    core_ = declare.core(core, c, tokens_);
  }

  // o in `slot`, its log-sum-exp in the next.
  tn_tensor* forward(const sdk::MixerPass& p, const tn_tensor& q, const tn_tensor& k, const tn_tensor& v, const float* inv_freq, uint32_t slot) const {
    tn_tensor *o = p.keep(slot, queries()), *lse = p.saves() ? p.keep(slot + 1, sdk::kF32, {p.ops().sequences, config_.n_heads, p.ops().length}) : nullptr;
    tn_tensor *rq = rotated(p, q, config_.n_heads, inv_freq), *rk = rotated(p, k, config_.n_kv_heads, inv_freq);
    attend(p, *rq, *rk, v, *o, lse);
    p.free(rq), p.free(rk);
    return o;
  }

  // dq, dk, dv, overwritten.
  void backward(const sdk::MixerPass& p, const tn_tensor& q, const tn_tensor& k, const tn_tensor& v, const float* inv_freq, uint32_t slot,
                const tn_tensor& d_o, tn_tensor& dq, tn_tensor& dk, tn_tensor& dv) const {
    tn_tensor *rq = rotated(p, q, config_.n_heads, inv_freq), *rk = rotated(p, k, config_.n_kv_heads, inv_freq);
    {
      const int64_t h = config_.n_heads, g = config_.n_kv_heads;
      const sdk::HeadsView vq(*rq, h), vk(*rk, g), vv(v, g), vo(p.kept(slot), h), vd(d_o, h);
      sdk::HeadsView vdq(dq, h), vdk(dk, g), vdv(dv, g);
      p.core_backward(core_, vq.tensor, vk.tensor, vv.tensor, vo.tensor, p.kept(slot + 1), vd.tensor, vdq.tensor, vdk.tensor, vdv.tensor);
    }
    p.free(rq), p.free(rk);
    rotate(p, dq, config_.n_heads, inv_freq, -1, dq);
    rotate(p, dk, config_.n_kv_heads, inv_freq, -1, dk);
  }

  // Keys and values of the last `rows` positions of a sequence, at the beginning of the decode state: position t in row t mod rows.
  struct Ring {
    int64_t rows;
  };
  int64_t row_bytes(const tn_dtype& dtype) const { return on() ? 2 * keys() * (dtype.bits / 8) : 0; }

  tn_tensor* decode(const sdk::MixerPass& p, const tn_tensor& q, const tn_tensor& k, const tn_tensor& v, const float* inv_freq, const Ring& ring) const {
    const int64_t rows = p.rows(), past = p.past(), earlier = std::min(past, ring.rows - 1);
    tn_tensor *o = p.alloc(queries()), *rq = rotated(p, q, config_.n_heads, inv_freq), *rk = rotated(p, k, config_.n_kv_heads, inv_freq);
    if (rows == 1) {
      // All rows of the ring are in the window, so their order does not matter.
      remember(p, *rk, v, ring);
      const int64_t kept = std::min(past + 1, ring.rows), g = config_.n_kv_heads, d = config_.d_qk;
      tn_tensor cache = p.state();
      cache.dtype = p.compute();
      const sdk::HeadsView vq(*rq, config_.n_heads), vk(cache, kept, g, d, g * d, d), vv(cache, kept, g, d, g * d, d, ring.rows * keys());
      sdk::HeadsView vo(*o, config_.n_heads);
      p.core(core_, vq.tensor, vk.tensor, vv.tensor, vo.tensor, nullptr);
    } else if (earlier == 0) {
      attend(p, *rq, *rk, v, *o, nullptr);
      remember(p, *rk, v, ring);
    } else {
      tn_tensor *all_k = p.alloc(p.compute(), {earlier + rows, keys()}), *all_v = p.alloc(p.compute(), {earlier + rows, keys()});
      p.typed([&](auto tag) {
        using T = decltype(tag);
        const T* const cache = reinterpret_cast<const T*>(sdk::data<char>(p.state()));
        copy<T>(p, cache, past - earlier, ring.rows, earlier, sdk::data<T>(*all_k), 0, kStraight);
        copy<T>(p, cache + ring.rows * keys(), past - earlier, ring.rows, earlier, sdk::data<T>(*all_v), 0, kStraight);
        copy<T>(p, sdk::data<T>(*rk), 0, kStraight, rows, sdk::data<T>(*all_k), earlier, kStraight);
        copy<T>(p, sdk::data<T>(v), 0, kStraight, rows, sdk::data<T>(*all_v), earlier, kStraight);
      });
      attend(p, *rq, *all_k, *all_v, *o, nullptr);
      remember(p, *rk, v, ring);
      p.free(all_k), p.free(all_v);
    }
    p.free(rq), p.free(rk);
    return o;
  }

 private:
  static constexpr int64_t kStraight = std::numeric_limits<int64_t>::max();
  int64_t queries() const { return int64_t{config_.n_heads} * config_.d_qk; }
  int64_t keys() const { return int64_t{config_.n_kv_heads} * config_.d_qk; }

  void attend(const sdk::MixerPass& p, const tn_tensor& q, const tn_tensor& k, const tn_tensor& v, const tn_tensor& o, tn_tensor* lse) const {
    const sdk::HeadsView vq(q, config_.n_heads), vk(k, config_.n_kv_heads), vv(v, config_.n_kv_heads);
    sdk::HeadsView vo(o, config_.n_heads);
    p.core(core_, vq.tensor, vk.tensor, vv.tensor, vo.tensor, lse);
  }
  tn_tensor* rotated(const sdk::MixerPass& p, const tn_tensor& x, int64_t heads, const float* inv_freq) const {
    tn_tensor* const to = p.alloc(heads * config_.d_qk);
    rotate(p, x, heads, inv_freq, 1, *to);
    return to;
  }
  void rotate(const sdk::MixerPass& p, const tn_tensor& x, int64_t heads, const float* inv_freq, float sign, const tn_tensor& to) const {
    p.typed([&](auto tag) {
      using T = decltype(tag);
      sdk::for_each_block(p.exec(), p.rows(), Rotate<T>{sdk::data<T>(x), heads, config_.d_qk, p.positions(), inv_freq, sign, sdk::data<T>(to)}, heads * config_.d_qk);
    });
  }
  template <class T>
  void copy(const sdk::MixerPass& p, const T* from, int64_t from_first, int64_t from_period, int64_t rows, T* to, int64_t to_first, int64_t to_period) const {
    sdk::for_each(p.exec(), rows * keys(), CopyRows<T>{from, from_first, from_period, keys(), to, to_first, to_period});
  }
  // The newest rows go into the ring.
  void remember(const sdk::MixerPass& p, const tn_tensor& k, const tn_tensor& v, const Ring& ring) const {
    p.typed([&](auto tag) {
      using T = decltype(tag);
      T* const cache = reinterpret_cast<T*>(sdk::data<char>(p.state()));
      const int64_t n = std::min(p.rows(), ring.rows), first = p.rows() - n;
      copy<T>(p, sdk::data<T>(k), first, kStraight, n, cache, p.past() + first, ring.rows);
      copy<T>(p, sdk::data<T>(v), first, kStraight, n, cache + ring.rows * keys(), p.past() + first, ring.rows);
    });
  }

  tn_attention_config config_;
  int64_t tokens_;
  uint32_t core_ = 0;
};

}  // namespace tenon::lact
