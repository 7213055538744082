// What the kernels on matrix units share: which tile of which segment a block has, rows into shared memory, and sums out of it.
//
// The heads of a group share keys, so a row of queries is a pair (query, head of the group), heads fastest: a decode step fills a tile, and
// gradients of keys sum over the group in one product.
#pragma once

#include "sdk/attention/flash/gpu/lists.h"
#include "sdk/gpu/matrix.h"

namespace tenon::sdk::flash::gpu {

namespace mma = sdk::gpu;

// What every card of a vendor gives a block: 64 KB on AMD's, 99 KB on NVIDIA's from sm_80 on. AMD's tiles are smaller for that.
inline constexpr bool kSmallTiles = TN_MATRIX_LANES == 64;
inline constexpr int64_t kMostShared = (kSmallTiles ? 64 << 10 : 99 << 10) - mma::kReduceBytes;

// Query heads that share a head of keys.
TN_FN int group_of(const Call& c) { return static_cast<int>(static_cast<uint32_t>(c.heads) / static_cast<uint32_t>(c.kv_heads)); }

// Rows [begin, end) of a tile: of queries (query, head of the group), or of keys, counted in the segment.
struct TilePlace {
  int64_t b, kv;  // batch entry and head of keys
  sdk::Segment seg;
  int begin, end;  // where the segment's rows end, at the least
  int64_t list;    // of tiles with lists
};

// Block n of `count` tiles for each batch entry and head of keys.
struct BlockPlace {
  uint32_t b, kv, tile;
  TN_FN BlockPlace(const Call& c, int64_t block, int64_t n_tiles) {
    const uint32_t n = static_cast<uint32_t>(block), count = static_cast<uint32_t>(n_tiles), heads = static_cast<uint32_t>(c.kv_heads), pair = n / count;
    tile = n - pair * count, b = pair / heads, kv = pair % heads;
  }
};

// The tiles of one side of a call where the mask alone says what they meet, the same for every batch entry and head of keys.
struct Tiling {
  static constexpr bool kListed = false;
  const int64_t* first;  // number of each segment's first tile, in device memory; null where there is one segment
  int64_t count;

  // Under a causal mask later queries see more keys: their tiles come first, so that the last blocks to start are short.
  TN_FN TilePlace queries(const Call& c, int64_t block, int rows) const {
    TilePlace at = place(c, block, rows, c.mask.causal);
    at.end = static_cast<int>(at.seg.q_len) * group_of(c);
    return at;
  }
  TN_FN TilePlace keys(const Call& c, int64_t block, int rows) const {
    TilePlace at = place(c, block, rows, false);
    at.end = static_cast<int>(at.seg.k_len);
    return at;
  }
  // What the queries [first, last] may see, in tiles of `size` keys, and what may see the keys of a run, in tiles of `size` queries.
  TN_FN KeyTiles keys_of(const TilePlace&, const Band& band, int first_query, int last_query, int size) const {
    return KeyTiles(band, first_query, last_query, size);
  }
  TN_FN QueryTiles queries_of(const TilePlace&, const Band& band, Keys run, int queries, int size) const {
    const Keys seeing = band.seeing(run, queries);
    return {seeing.begin, seeing.end, size};
  }

 private:
  TN_FN TilePlace place(const Call& c, int64_t block, int rows, bool backwards) const {
    const BlockPlace n(c, block, count);
    const uint32_t tile = backwards ? static_cast<uint32_t>(count) - 1 - n.tile : n.tile;
    const int64_t s = segment_of(tile, c.n_segments);
    return {n.b, n.kv, c.segment(s), static_cast<int>(tile - (first ? first[s] : 0)) * rows, 0, 0};
  }
  TN_FN int64_t segment_of(int64_t tile, int64_t segments) const {
    if (!first) return 0;
    int64_t low = 0;
    for (int64_t high = segments; high - low > 1;) {
      const int64_t middle = (low + high) / 2;
      (first[middle] <= tile ? low : high) = middle;
    }
    return low;
  }
};

// Pieces of a list in tiles of `size`, which divides kPiece. There is at least one, if need be an empty one, where the list has an empty piece.
template <class Piece>
struct PieceTiles {
  const Piece* pieces;
  int size, count;
  TN_FN PieceTiles(const Piece* first, const Piece* last, int tile)
      : pieces(first), size(tile), count(static_cast<int>(last - first) * (static_cast<int>(kPiece) / tile)) {}
  TN_FN Keys operator[](int t) const {
    const int parts = static_cast<int>(kPiece) / size;
    const Piece& p = pieces[t / parts];
    const int from = Band::lesser(p.begin + t % parts * size, p.end);
    return {from, Band::lesser(from + size, p.end)};
  }
};

// Tiles whose lists the host made.
struct ListedTiles {
  static constexpr bool kListed = true;
  Lists<RowTile, Keys> row_lists;
  Lists<KeyTile, QueryPiece> key_lists;

  TN_FN TilePlace queries(const Call& c, int64_t block, int) const {
    const BlockPlace n(c, block, row_lists.count);
    const RowTile& t = row_lists.tiles[n.tile];
    return {n.b, n.kv, c.segment(t.segment), static_cast<int>(t.first), static_cast<int>(t.first) + t.rows, row_lists.list(n.kv, n.tile)};
  }
  TN_FN TilePlace keys(const Call& c, int64_t block, int) const {
    const BlockPlace n(c, block, key_lists.count);
    const KeyTile& t = key_lists.tiles[n.tile];
    const sdk::Segment& s = c.segment(t.segment);
    return {n.b, n.kv, s, static_cast<int>(t.begin - s.k_begin), static_cast<int>(t.end - s.k_begin), key_lists.list(n.kv, n.tile)};
  }
  TN_FN PieceTiles<Keys> keys_of(const TilePlace& at, const Band&, int, int, int size) const {
    return {row_lists.pieces + row_lists.begin[at.list], row_lists.pieces + row_lists.begin[at.list + 1], size};
  }
  TN_FN PieceTiles<QueryPiece> queries_of(const TilePlace& at, const Band&, Keys, int, int size) const {
    return {key_lists.pieces + key_lists.begin[at.list], key_lists.pieces + key_lists.begin[at.list + 1], size};
  }
};

// Rows (query, head) of a segment, from `begin` on.
struct QueryRows {
  int64_t b, token, head;  // of the segment's first query
  int first;               // query of row 0, counted in the segment
  int group, offset;       // heads of a group; begin % group
  int count;               // rows of the tile and behind it from `begin` on
  TN_FN QueryRows(const Call& c, const TilePlace& at, int begin) {
    group = group_of(c), first = begin / group, offset = begin - first * group;
    b = at.b, token = at.seg.q_begin, head = at.kv * group, count = at.end - begin;
  }
  TN_FN int query(int row) const { return first + static_cast<int>(static_cast<uint32_t>(row + offset) / static_cast<uint32_t>(group)); }
  TN_FN int in_group(int row) const { return row + offset - (query(row) - first) * group; }
  TN_FN int query_or_last(int row) const { return query(Band::lesser(row, count - 1)); }
  TN_FN char* at(const Rows& r, int row) const { return r.at(b, token + query(row), head + in_group(row)); }
  TN_FN float& at(const Numbers& n, int row) const { return n.at(b, head + in_group(row), token + query(row)); }
  TN_FN int64_t flat(const Call& c, int row) const { return (b * c.heads + head + in_group(row)) * c.t_q + token + query(row); }
};

// Starts to copy kRows rows into a tile, of which the first n are there; the others become zeros. address(row) is where a row lies.
template <int kThreads, int kRows, class T, int D, class Address>
TN_FN void fetch(const mma::SharedTile<T, D>& to, int n, Address address) {
  constexpr int kPieces = D / 8, kStep = kThreads / kPieces;
  static_assert(kThreads % kPieces == 0 && kStep % 8 == 0 && kRows % kStep == 0);
  const int row = mma::thread() / kPieces, column = mma::thread() % kPieces * 8;
  T* const target = to.at(row, column);
#pragma unroll
  for (int r = 0; r < kRows; r += kStep) mma::copy_async(target + r * D, address(row + r) + 2 * column, row + r < n);
}
// Rows of one head, one token after the other.
template <int kThreads, int kRows, class T, int D>
TN_FN void fetch_tokens(const mma::SharedTile<T, D>& to, const Rows& from, const char* first, int n) {
  const int64_t step = from.token;
  fetch<kThreads, kRows>(to, n, [=](int row) { return first + row * step; });
}
// Keys of a run; `first` is the segment's first, from first_key.
template <int kThreads, int kRows, class T, int D>
TN_FN void fetch_keys(const mma::SharedTile<T, D>& to, const Rows& from, const char* first, Keys run) {
  fetch_tokens<kThreads, kRows>(to, from, first + run.begin * from.token, run.size());
}
TN_FN const char* first_key(const Rows& from, const TilePlace& at) { return from.at(at.b, at.seg.k_begin, at.kv); }
template <int kThreads, int kRows, class T, int D>
TN_FN void fetch_queries(const mma::SharedTile<T, D>& to, const Rows& from, const QueryRows& q) {
  const QueryRows source = q;
  const Rows tensor = from;
  fetch<kThreads, kRows>(to, q.count, [=](int row) { return source.at(tensor, row); });
}

// Scores of hidden keys become −inf. Rows belong to the queries of `q`, from `row` on, columns to the keys from `run.begin` on.
template <int kBlocks, int kTiles>
TN_FN void hide(mma::Sum (&s)[kBlocks][kTiles], const Band& band, const QueryRows& q, int row, Keys run) {
#pragma unroll
  for (int m = 0; m < kBlocks; ++m)
#pragma unroll
    for (int slot = 0; slot < mma::Sum::kSlots; ++slot) {
      const Band::Columns seen = band.columns(q.query(row + 16 * m + mma::Sum::row(slot)), run);
#pragma unroll
      for (int n = 0; n < kTiles; ++n)
#pragma unroll
        for (int x = 0; x < mma::Sum::kPerSlot; ++x)
          if (!seen.has(16 * n + mma::Sum::column(x))) s[m][n].at(slot, x) = minus_infinity();
    }
}

// Results on their way out: f32 in shared memory, so that rows leave in whole pieces whatever their type. Pieces of 16 bytes are permuted as
// those of a SharedTile.
template <int D>
struct Stage {
  float* data;
  TN_FN float* at(int row, int column) const { return data + row * D + ((column / 4) ^ (row % 8)) * 4 + column % 4; }
  static constexpr int64_t bytes(int rows) { return int64_t{4} * rows * D; }

  template <int kBlocks>
  TN_FN void put(const mma::Sum (&sums)[kBlocks][D / 16], int row, float factor) const {
#pragma unroll
    for (int m = 0; m < kBlocks; ++m)
#pragma unroll
      for (int slot = 0; slot < mma::Sum::kSlots; ++slot)
#pragma unroll
        for (int f = 0; f < D / 16; ++f)
#pragma unroll
          for (int x = 0; x < mma::Sum::kPerSlot; ++x)
            *at(row + 16 * m + mma::Sum::row(slot), 16 * f + mma::Sum::column(x)) = sums[m][f].at(slot, x) * factor;
  }
  // address(row) is null for rows that are not there.
  template <int kThreads, class Address>
  TN_FN void write(const Rows& to, int rows, Address address) const {
#pragma unroll 1
    for (int x = mma::thread(); x < rows * (D / 4); x += kThreads) {
      const int row = x / (D / 4), column = x % (D / 4) * 4;
      char* const out = address(row);
      const float* const from = at(row, column);
      if (out)
        for (int i = 0; i < 4; ++i) to.put(out, column + i, from[i]);
    }
  }
};

}  // namespace tenon::sdk::flash::gpu
