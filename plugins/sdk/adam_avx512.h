// The update of adam.h in AVX-512 where everything is kept in bf16, from memory to memory in registers: the same
// operations in the same order as its loop, equal to the last bit.
#pragma once

#include "sdk/adam_rule.h"
#include "sdk/stored_avx512.h"

namespace tenon::sdk {

// Updates the whole groups that a chunk begins with; answers how many elements they are.
template <bool Max>
int64_t adam_groups(const AdamNumbers& a, const Chunk& chunk, const Stored& grad, const Stored& weight,
                    const Stored& first, const Stored& second, const Stored& largest) {
  if (!all_bf16(grad, weight, first, second) || (Max && !all_bf16(largest))) return 0;
  const int64_t n = chunk.n / kGroup * kGroup;
  const StoredGroups gs(grad), ws(weight), ms(first), vs(second), xs(largest);
  const __m512 scale = _mm512_set1_ps(a.grad_scale), a1 = _mm512_set1_ps(a.a1), a2 = _mm512_set1_ps(a.a2),
               root = _mm512_set1_ps(a.root), eps = _mm512_set1_ps(a.eps), step = _mm512_set1_ps(a.step),
               decay = _mm512_set1_ps(a.decay), after = _mm512_set1_ps(a.after), zero = _mm512_setzero_ps(),
               infinity = _mm512_set1_ps(__builtin_inff());
  StoredGroups::Noise of_w[2], of_m[2], of_v[2], of_x[2];
  for (int64_t at = chunk.begin, turn = 0; at < chunk.begin + n; at += kGroup, turn ^= 1) {
    if (turn == 0) {  // for this group and the next
      StoredGroups::draw(at, ms, of_m, vs, of_v);
      ws.draw(at, of_w);
      if constexpr (Max) xs.draw(at, of_x);
    }
    __m512 g[4], w[4], m[4], v[4], x[4];
    gs.read(at, g), ws.read(at, w), ms.read(at, m), vs.read(at, v);
    if constexpr (Max) xs.read(at, x);
    for (int k = 0; k < 4; ++k) {
      const __m512 now = _mm512_mul_ps(g[k], scale);
      m[k] = _mm512_fmadd_ps(a1, now, _mm512_fnmadd_ps(a1, m[k], m[k]));
      v[k] = _mm512_fmadd_ps(a2, _mm512_mul_ps(now, now), _mm512_fnmadd_ps(a2, v[k], v[k]));
      __m512 most = v[k];
      if constexpr (Max) x[k] = most = _mm512_mask_mov_ps(v[k], _mm512_cmp_ps_mask(x[k], v[k], _CMP_GT_OQ), x[k]);
      const __m512 d = _mm512_fmadd_ps(_mm512_sqrt_ps(most), root, eps),
                   usable = _mm512_mask_mov_ps(infinity, _mm512_cmp_ps_mask(d, zero, _CMP_GT_OQ), d),
                   s = _mm512_mul_ps(step, _mm512_div_ps(m[k], usable));
      w[k] = _mm512_sub_ps(w[k], _mm512_fmadd_ps(decay, _mm512_fnmadd_ps(after, s, w[k]), s));
    }
    ws.write(at, w, of_w[turn]), ms.write(at, m, of_m[turn]), vs.write(at, v, of_v[turn]);
    if constexpr (Max) xs.write(at, x, of_x[turn]);
  }
  return n;
}

}  // namespace tenon::sdk
