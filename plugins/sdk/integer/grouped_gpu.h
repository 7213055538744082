// The kernels of sdk/integer/grouped_codec.h on GPUs, for any number of bits: eight codes fill `bits` bytes, which a thread reads at once.
#pragma once

#include "sdk/floats.h"
#include "sdk/gpu/coded_product.h"
#include "sdk/integer/grouped.h"

namespace tenon::sdk::grouped {

inline constexpr int64_t kMaxRows = 8;  // of dot products

TN_FN float value(const GroupedSizes& s, const GroupedParts& p, int64_t row, int64_t j) {
  const int64_t g = p.group_of(s, j);
  return p.scale(row * s.groups + g) * (static_cast<float>(code_at(p.codes + row * s.code_row, j, s.bits)) - p.zero(s, row, g));
}

// Eight neighbours of one group, where rows and groups are whole eights.
struct Eight {
  uint64_t codes;
  float scale, zero;
  TN_FN float steps(int i, int bits) const { return static_cast<float>(static_cast<uint32_t>(codes >> (i * bits)) & ((1u << bits) - 1)) - zero; }
};
TN_FN Eight eight_at(const GroupedSizes& s, const GroupedParts& p, int64_t row, int64_t j) {
  const uint8_t* const at = p.codes + row * s.code_row + j / 8 * s.bits;
  Eight e;
  switch (s.bits) {
    case 2: e.codes = *reinterpret_cast<const uint16_t*>(at); break;
    case 3: e.codes = at[0] | static_cast<uint32_t>(at[1]) << 8 | static_cast<uint32_t>(at[2]) << 16; break;
    case 4: e.codes = *reinterpret_cast<const uint32_t*>(at); break;
    default: e.codes = *reinterpret_cast<const uint64_t*>(at);
  }
  const int64_t g = static_cast<uint32_t>(j) / static_cast<uint32_t>(s.group);
  e.scale = p.scale(row * s.groups + g), e.zero = p.zero(s, row, g);
  return e;
}
inline bool has_eights(const GroupedSizes& s, const GroupedParts& p) {
  return s.n % 8 == 0 && s.n < int64_t{1} << 31 && (s.group % 8 == 0 || s.groups == 1) && !p.g_idx && gpu::is_aligned(p.codes);
}

// A block a row. kEights: the range and what it goes to are whole eights too.
template <bool kEights>
struct Decode {
  GroupedSizes s;
  GroupedParts p;
  int64_t begin, end;
  Floats out;
  TN_FN void operator()(const Block& block) const {
    const int64_t row = begin / s.n + block.index, low = row * s.n, high = low + s.n, from = (begin > low ? begin : low) - low,
                  to = (end < high ? end : high) - low, origin = low - begin;
    const Decode* const self = this;
    if constexpr (kEights) {
      block.each((to - from) / 8, [=](int64_t k) {
        const int64_t j = from + 8 * k;
        const Eight e = eight_at(self->s, self->p, row, j);
        float v[8];
        for (int i = 0; i < 8; ++i) v[i] = e.scale * e.steps(i, self->s.bits);
        self->out.put_eight(origin + j, v);
      });
    } else {
      block.each(to - from, [=](int64_t k) { self->out.put(origin + from + k, value(self->s, self->p, row, from + k)); });
    }
  }
};

inline void decode(const tn_exec* exec, const GroupedSizes& s, const GroupedParts& p, int64_t begin, int64_t end, tn_tensor& dst) {
  const Floats out = floats(dst, "a decoded tensor");
  const int64_t rows = ceil_div(end, s.n) - begin / s.n;
  if (has_eights(s, p) && begin % 8 == 0 && end % 8 == 0 && out.takes_eights())
    for_each_block(exec, rows, Decode<true>{s, p, begin, end, out}, s.n / 8);
  else
    for_each_block(exec, rows, Decode<false>{s, p, begin, end, out}, s.n);
}

// Dot products for up to kRows rows of x. A wave takes some rows of W at once, so that what it reads of x serves them all; x passes through shared
// memory, the halves of eights apart, so that lanes side by side read side by side.
template <int kRows>
struct RowProducts {
  static constexpr int kThreads = 128, kOutputs = 16, kChunk = 1024;
  static constexpr int64_t kShared = int64_t{kRows} * kChunk * static_cast<int64_t>(sizeof(float));
  struct alignas(16) Four {
    float value[4];
  };
  GroupedSizes s;
  GroupedParts p;
  gpu::ProductCall call;
  Floats x;

  TN_FN void operator()(const Block& block) const {
    constexpr int kOwn = kOutputs / (kThreads / gpu::kWave), kEights = kChunk / 8 / gpu::kWave;
    const gpu::ProductCall& c = call;
    const int thread = gpu::thread(), lane = thread % gpu::kWave;
    const int64_t first = block.index * kOutputs + thread / gpu::kWave * kOwn;
    Four* const xs = block.shared<Four>();
    float sum[kOwn][kRows] = {};
    for (int64_t begin = 0; begin < c.n; begin += kChunk) {
      Eight w[kEights][kOwn];
#pragma unroll
      for (int e = 0; e < kEights; ++e)
#pragma unroll
        for (int r = 0; r < kOwn; ++r) {
          const int64_t j = begin + 8 * (lane + e * gpu::kWave);
          w[e][r] = first + r < c.m && j < c.n ? eight_at(s, p, first + r, j) : Eight{};
        }
      gpu::barrier();  // the last chunk is done with
      for (int i = thread; i < kRows * kChunk; i += kThreads) {
        const int t = i / kChunk, k = i % kChunk;
        xs[t * (kChunk / 4) + k / 4 % 2 * (kChunk / 8) + k / 8].value[k % 4] = t < c.rows && begin + k < c.n ? x[t * c.n + begin + k] : 0.0f;
      }
      gpu::barrier();
#pragma unroll
      for (int e = 0; e < kEights; ++e) {
        float steps[kOwn][8];
#pragma unroll
        for (int r = 0; r < kOwn; ++r)
#pragma unroll
          for (int i = 0; i < 8; ++i) steps[r][i] = w[e][r].steps(i, s.bits);
#pragma unroll
        for (int t = 0; t < kRows; ++t) {
          const Four* const at = xs + t * (kChunk / 4) + lane + e * gpu::kWave;
          const Four low = at[0], high = at[kChunk / 8];
#pragma unroll
          for (int r = 0; r < kOwn; ++r) {
            float dot = 0;
#pragma unroll
            for (int i = 0; i < 4; ++i) dot += steps[r][i] * low.value[i] + steps[r][4 + i] * high.value[i];
            sum[r][t] += w[e][r].scale * dot;
          }
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kOwn; ++r)
#pragma unroll
      for (int t = 0; t < kRows; ++t) {
        float all = sum[r][t];
        for (int mask = gpu::kWave / 2; mask > 0; mask /= 2) all += gpu::exchange(all, mask);
        if (lane == 0 && t < c.rows && first + r < c.m) c.put(t, first + r, all);
      }
    gpu::barrier();
  }
};

// For any shape and index: a block a row of W.
struct PlainProducts {
  GroupedSizes s;
  GroupedParts p;
  gpu::ProductCall call;
  Floats x;
  TN_FN void operator()(const Block& block) const {
    const PlainProducts* const self = this;
    const int64_t row = block.index;
    for (int64_t t = 0; t < call.rows; ++t) {
      const int64_t at = t * call.n;
      const float sum = block.sum(call.n, [=](int64_t j) { return value(self->s, self->p, row, j) * self->x[at + j]; });
      block.each(1, [=](int64_t) { self->call.put(t, row, sum); });
    }
  }
};

// The weight of sdk/gpu/coded_product.h.
struct TileWeights {
  static constexpr int kTable = 0;
  GroupedSizes s;
  GroupedParts p;

  template <int kEach>
  struct Run {
    Eight eight[kEach / 8];
    int bits;
  };
  TN_FN void fill(float*, int) const {}
  template <int kEach>
  TN_FN Run<kEach> load(int64_t row, int64_t k) const {
    Run<kEach> run;
    run.bits = s.bits;
#pragma unroll
    for (int e = 0; e < kEach / 8; ++e) run.eight[e] = eight_at(s, p, row, k + 8 * e);
    return run;
  }
  template <class AnyRun>
  TN_FN float value(const AnyRun& run, int i, const float*) const {
    return run.eight[i / 8].scale * run.eight[i / 8].steps(i % 8, run.bits);
  }
};

inline int64_t most_rows(const tn_target& target, const GroupedSizes& s) {
  const bool tiles = target.ndim == 2 && !s.indexed && (s.group % 8 == 0 || s.groups == 1) && gpu::takes_tiles(nullptr, s.n, target.dtype);
  return tiles ? gpu::kMostTiledRows : kMaxRows;
}
inline uint64_t product_bytes(const GroupedSizes&, int64_t) { return 0; }

inline void multiply(const tn_exec* exec, const GroupedSizes& s, const GroupedParts& p, const Product& product, const tn_tensor& x, double alpha,
                     double beta, tn_tensor& y) {
  const Floats from = floats(x, "the input of a product");
  gpu::ProductCall c{product.m, product.n, product.rows, alpha, beta, floats(y, "the product")};
  const bool eights = has_eights(s, p);
  if (c.rows > kMaxRows && eights && gpu::takes_tiles(exec, c.n, x.dtype) && gpu::is_aligned(from.data)) {
    const auto tiles = [&](auto type) {
      using Kernel = gpu::TileProducts<decltype(type), TileWeights>;
      gpu::launch_product(exec, Kernel::blocks(c), Kernel{{s, p}, c, static_cast<const decltype(type)*>(from.data)});
    };
    return same(x.dtype, kBF16) ? tiles(bf16{}) : tiles(f16{});
  }
  const int64_t all = c.rows;
  for (int64_t t = 0; t < all; t += kMaxRows) {
    c.rows = all - t < kMaxRows ? all - t : kMaxRows;
    const Floats part{static_cast<char*>(from.data) + t * c.n * (x.dtype.bits / 8), x.dtype};
    const int64_t blocks = ceil_div(c.m, RowProducts<1>::kOutputs);
    if (!eights)
      for_each_block(exec, c.m, PlainProducts{s, p, c, part}, c.n);
    else if (c.rows == 1)
      gpu::launch_product(exec, blocks, RowProducts<1>{s, p, c, part});
    else
      gpu::launch_product(exec, blocks, RowProducts<kMaxRows>{s, p, c, part});
    c.y.data = static_cast<char*>(c.y.data) + c.rows * c.m * (c.y.dtype.bits / 8);
  }
}

}  // namespace tenon::sdk::grouped
