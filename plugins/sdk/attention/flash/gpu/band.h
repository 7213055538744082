// The mask between the queries and the keys of one segment in numbers of 32 bits, which are cheap to keep and to compare: rows are counted
// from the segment's first, and fewer than kMostRows.
#pragma once

#include "sdk/attention/mask.h"
#include "sdk/attention/segments.h"

namespace tenon::sdk::flash::gpu {

inline constexpr int64_t kMostRows = int64_t{1} << 29;

// Keys [begin, end) of a segment.
struct Keys {
  int begin, end;
  TN_FN int size() const { return end - begin; }
};

// Query i sees key j < keys if j < sink and j < i + past, or if i + low <= j < i + high.
struct Band {
  int keys, sink, past, low, high;
  static constexpr int kFar = 1 << 30;

  TN_FN Band(const sdk::Mask& m, const sdk::Segment& s) {
    const int64_t shift = s.q_pos - s.k_pos;
    const auto within = [](int64_t x) { return static_cast<int>(sdk::detail::clamp_to(x, -kFar, kFar)); };
    keys = static_cast<int>(s.k_len), sink = within(m.sink - s.k_pos);
    past = m.causal ? within(shift + 1) : kFar;
    low = m.left < 0 ? -kFar : within(shift - m.left), high = lesser(past, m.right < 0 ? kFar : within(shift + m.right + 1));
  }
  static TN_FN int lesser(int a, int b) { return a < b ? a : b; }
  static TN_FN int greater(int a, int b) { return a > b ? a : b; }
  TN_FN int in_segment(int key) const { return key < 0 ? 0 : lesser(key, keys); }

  TN_FN bool sees(int i, int j) const { return ((j < sink) & (j < i + past)) | ((j >= i + low) & (j < i + high)); }

  // Which keys of `run` query i sees, counted from run.begin.
  struct Columns {
    int sink, from, to;
    TN_FN bool has(int column) const { return (column < sink) | ((column >= from) & (column < to)); }
  };
  TN_FN Columns columns(int i, Keys run) const {
    return {lesser(lesser(sink, i + past), run.end) - run.begin, i + low - run.begin, lesser(i + high, run.end) - run.begin};
  }

  // Queries [first, last] against the keys of a run. Empty and full are certain.
  TN_FN sdk::Cover cover(int first, int last, Keys run) const {
    if (run.begin >= lesser(sink, last + past) && (run.begin >= last + high || run.end <= first + low)) return sdk::Cover::kEmpty;
    const bool full = (run.begin >= last + low && run.end <= first + high) || run.end <= lesser(sink, first + past);
    return full ? sdk::Cover::kFull : sdk::Cover::kPartial;
  }

  // Queries that may see one of the keys of a run, of `queries` there are: [begin, end).
  TN_FN Keys seeing(Keys run, int queries) const {
    const bool in_sink = run.begin < sink;
    const int begin = greater(0, run.begin + 1 - (in_sink ? past : high)), end = in_sink ? queries : lesser(queries, run.end - low);
    return {lesser(begin, queries), greater(lesser(begin, queries), end)};
  }
};

// The tiles of keys that one of the queries [first, last] may see: those of the sink, then those of the window. There is at least one, if need
// be an empty one.
struct KeyTiles {
  int sink_end, begin, end, size, in_sink, count;
  TN_FN KeyTiles(const Band& band, int first, int last, int tile) : size(tile) {
    sink_end = band.in_segment(Band::lesser(band.sink, last + band.past));
    begin = band.in_segment(first + band.low), end = band.in_segment(last + band.high);
    if (begin >= end) begin = end = 0;
    if (begin <= sink_end) begin = 0, end = Band::greater(end, sink_end), sink_end = 0;
    in_sink = (sink_end + tile - 1) / tile, count = Band::greater(1, in_sink + (end - begin + tile - 1) / tile);
  }
  TN_FN Keys operator[](int t) const {
    const bool sink = t < in_sink;
    const int from = sink ? t * size : begin + (t - in_sink) * size;
    return {from, Band::lesser(from + size, sink ? sink_end : end)};
  }
};

// Queries [begin, end) in tiles of `size`.
struct QueryTiles {
  int begin, end, size, count;
  TN_FN QueryTiles(int b, int e, int tile) : begin(b), end(e), size(tile), count((e - b + tile - 1) / tile) {}
  TN_FN Keys operator[](int t) const { return {begin + t * size, Band::lesser(begin + t * size + size, end)}; }
};

}  // namespace tenon::sdk::flash::gpu
