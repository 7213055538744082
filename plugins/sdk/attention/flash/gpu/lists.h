// What tiles of rows meet, as lists that the host makes from mask and pattern and uploads for one pass: of each tile of queries the pieces of
// keys, of each tile of keys the pieces of queries. A tile never crosses an edge of the pattern, so that the pattern shows all of a piece to all
// of a tile, and only the mask is left to ask of single rows.
#pragma once

#include "sdk/attention/flash/gpu/band.h"
#include "sdk/attention/flash/gpu/plain.h"
#include "sdk/device_memory.h"
#include "sdk/workspace.h"

namespace tenon::sdk::flash::gpu {

inline constexpr int64_t kPiece = 64;  // the most keys or queries of a piece, and keys of a tile

// Rows [begin, end) of the key tensor. segment: the one whose keys they are, or −1 where there are several or none.
struct KeyTile {
  int32_t segment, begin, end;
};
// Queries [begin, end) of a segment.
struct QueryPiece {
  int32_t segment, begin, end;
};

// Tiles with a list each for every key head, or one for all where maps is 1, in device memory.
template <class Tile, class Piece>
struct Lists {
  const Tile* tiles;
  const int64_t* begin;  // [maps, tiles + 1]: list n has the pieces [begin[n], begin[n + 1])
  const Piece* pieces;
  int64_t count, maps;
  TN_FN int64_t list(int64_t kv, int64_t tile) const { return (maps == 1 ? 0 : kv * (count + 1)) + tile; }
};

// For the plain kernels: a block a row of a tile, of kTileRows and kPiece rows.
struct ListedRows {
  static constexpr bool kExact = false;
  Lists<RowTile, Keys> rows;
  Lists<KeyTile, QueryPiece> keys;
  int64_t query_blocks, key_blocks;
  ListedRows(const Call& c, const Lists<RowTile, Keys>& r, const Lists<KeyTile, QueryPiece>& k)
      : rows(r), keys(k), query_blocks(c.batch * c.kv_heads * r.count * kTileRows), key_blocks(c.batch * c.kv_heads * k.count * kPiece) {}

  struct Listed : Place {
    int64_t list;
  };
  TN_FN Listed query(const Call& c, int64_t n) const {
    const int64_t r = n % kTileRows, tile = n / kTileRows % rows.count, pair = n / kTileRows / rows.count, kv = pair % c.kv_heads, group = c.heads / c.kv_heads;
    const RowTile& t = rows.tiles[tile];
    return {{pair / c.kv_heads, kv * group + (t.first + r) % group, c.segment(t.segment).q_begin + (t.first + r) / group, t.segment, r < t.rows}, rows.list(kv, tile)};
  }
  TN_FN Listed key(const Call& c, int64_t n) const {
    const int64_t r = n % kPiece, tile = n / kPiece % keys.count, pair = n / kPiece / keys.count, kv = pair % c.kv_heads;
    const KeyTile& t = keys.tiles[tile];
    return {{pair / c.kv_heads, kv, t.begin + r, t.segment, t.begin + r < t.end}, keys.list(kv, tile)};
  }
  // Pieces that touch are one run.
  template <class F>
  TN_FN void each_keys(const Call&, const Listed& at, F f) const {
    for (int64_t n = rows.begin[at.list], last = rows.begin[at.list + 1]; n < last;) {
      const int64_t begin = rows.pieces[n].begin;
      int64_t end = rows.pieces[n++].end;
      while (n < last && rows.pieces[n].begin == end) end = rows.pieces[n++].end;
      f(begin, end);
    }
  }
  template <class F>
  TN_FN void each_queries(const Call&, const Listed& at, F f) const {
    for (int64_t n = keys.begin[at.list], last = keys.begin[at.list + 1]; n < last;) {
      const QueryPiece& first = keys.pieces[n++];
      int64_t end = first.end;
      while (n < last && keys.pieces[n].segment == first.segment && keys.pieces[n].begin == end) end = keys.pieces[n++].end;
      f(first.segment, first.begin, end);
    }
  }
};

// Lists on their way to the device.
template <class Tile, class Piece>
struct HostLists {
  std::vector<Tile> tiles;
  std::vector<int64_t> begin;
  std::vector<Piece> pieces;
  int64_t maps = 1;
  Lists<Tile, Piece> device{};

  void reserve(sdk::Workspace& memory) {
    device = {memory.take<Tile>(size(tiles)), memory.take<int64_t>(size(begin)), memory.take<Piece>(size(pieces)), size(tiles), maps};
  }
  void upload(const tn_exec* exec) const {
    send(exec, tiles, device.tiles), send(exec, begin, device.begin), send(exec, pieces, device.pieces);
  }

 private:
  template <class T>
  static int64_t size(const std::vector<T>& x) {
    return static_cast<int64_t>(x.size());
  }
  template <class T>
  static void send(const tn_exec* exec, const std::vector<T>& from, const T* to) {
    if (!from.empty()) sdk::copy_to_device(exec, from.data(), const_cast<T*>(to), size(from));
  }
};

// Of the problem's row tiles, those with the most keys first under a causal mask. A tile that sees nothing has one empty piece.
inline HostLists<RowTile, Keys> lists_of_rows(const Problem& p) {
  HostLists<RowTile, Keys> out;
  out.tiles = p.tiles, out.maps = p.maps();
  if (p.mask.causal) std::reverse(out.tiles.begin(), out.tiles.end());
  std::vector<sdk::Run> runs;
  for (int64_t g = 0; g < out.maps; ++g) {
    for (const RowTile& tile : out.tiles) {
      out.begin.push_back(static_cast<int64_t>(out.pieces.size()));
      const int64_t from = p.segments[static_cast<size_t>(tile.segment)].k_begin;
      runs.clear();
      p.key_runs(tile, g, runs);
      for (const sdk::Run& r : runs)
        for (int64_t at = r.begin; at < r.end; at += kPiece)
          out.pieces.push_back({static_cast<int>(at - from), static_cast<int>(std::min(at + kPiece, r.end) - from)});
      if (runs.empty()) out.pieces.push_back({0, 0});
    }
    out.begin.push_back(static_cast<int64_t>(out.pieces.size()));
  }
  return out;
}

class KeyListMaker {
 public:
  explicit KeyListMaker(const Problem& p) : p_(p), tile_of_(static_cast<size_t>(p.t_k) + 1) {}

  HostLists<KeyTile, QueryPiece> make() {
    cut();
    HostLists<KeyTile, QueryPiece> out;
    out.maps = p_.maps();
    for (int64_t g = 0; g < out.maps; ++g) {
      std::vector<std::vector<QueryPiece>> lists(tiles_.size());
      each_run(g, [&](int32_t s, int64_t first, int64_t last, sdk::Run keys) {
        for (int32_t t = tile_of_[static_cast<size_t>(keys.begin)]; t < tile_of_[static_cast<size_t>(keys.end)]; ++t)
          add(lists[static_cast<size_t>(t)], tiles_[static_cast<size_t>(t)], s, first, last);
      });
      for (const auto& list : lists) {
        out.begin.push_back(static_cast<int64_t>(out.pieces.size()));
        for (const QueryPiece& q : list)
          for (int32_t at = q.begin; at < q.end; at += kPiece) out.pieces.push_back({q.segment, at, std::min(at + static_cast<int32_t>(kPiece), q.end)});
      }
      out.begin.push_back(static_cast<int64_t>(out.pieces.size()));
    }
    out.tiles = std::move(tiles_);
    return out;
  }

 private:
  // f(segment, first query, end of queries, rows of keys) for every row of the pattern and run of keys that it shows; all of a segment where
  // there is no pattern.
  template <class F>
  void each_run(int64_t g, F f) const {
    std::vector<sdk::Run> runs;
    for (size_t n = 0; n < p_.segments.size(); ++n) {
      const sdk::Segment& s = p_.segments[n];
      if (s.k_len == 0) continue;
      for (int64_t first = 0, last; first < s.q_len; first = last) {
        runs.clear();
        if (p_.pattern) {
          const int64_t block = p_.pattern->block_q, i = floor_div(s.q_pos + first, block);
          last = std::min(s.q_len, (i + 1) * block - s.q_pos);
          p_.pattern->runs(g, i, {s.k_pos, s.k_pos + s.k_len}, runs);
        } else {
          last = s.q_len;
          runs.push_back({s.k_pos, s.k_pos + s.k_len});
        }
        for (const sdk::Run& r : runs) f(static_cast<int32_t>(n), first, last, sdk::Run{r.begin - s.k_pos + s.k_begin, r.end - s.k_pos + s.k_begin});
      }
    }
  }
  // Tiles end where a run of any key head or a segment does.
  void cut() {
    std::vector<char> edge(static_cast<size_t>(p_.t_k) + 1);
    for (const sdk::Segment& s : p_.segments) edge[static_cast<size_t>(s.k_begin)] = edge[static_cast<size_t>(s.k_begin + s.k_len)] = 1;
    for (int64_t g = 0; g < p_.maps(); ++g)
      each_run(g, [&](int32_t, int64_t, int64_t, sdk::Run keys) { edge[static_cast<size_t>(keys.begin)] = edge[static_cast<size_t>(keys.end)] = 1; });
    for (int64_t at = 0, end; at < p_.t_k; at = end) {
      for (end = at + 1; end < p_.t_k && end - at < kPiece && !edge[static_cast<size_t>(end)];) ++end;
      for (int64_t row = at; row < end; ++row) tile_of_[static_cast<size_t>(row)] = static_cast<int32_t>(tiles_.size());
      tiles_.push_back({-1, static_cast<int32_t>(at), static_cast<int32_t>(end)});
    }
    tile_of_.back() = static_cast<int32_t>(tiles_.size());
    std::vector<char> owners(tiles_.size());
    for (size_t n = 0; n < p_.segments.size(); ++n) {
      const sdk::Segment& s = p_.segments[n];
      for (int32_t t = tile_of_[static_cast<size_t>(s.k_begin)]; s.k_len > 0 && t < tile_of_[static_cast<size_t>(s.k_begin + s.k_len)]; ++t)
        tiles_[static_cast<size_t>(t)].segment = owners[static_cast<size_t>(t)]++ ? -1 : static_cast<int32_t>(n);
    }
  }
  // Queries [first, last) of a segment, those that the mask may show a key of the tile.
  void add(std::vector<QueryPiece>& list, const KeyTile& tile, int32_t segment, int64_t first, int64_t last) const {
    const sdk::Segment& s = p_.segments[static_cast<size_t>(segment)];
    const Keys own{static_cast<int>(tile.begin - s.k_begin), static_cast<int>(tile.end - s.k_begin)};
    const Keys seeing = Band(p_.mask, s).seeing(own, static_cast<int>(s.q_len));
    const QueryPiece piece{segment, std::max(static_cast<int32_t>(first), seeing.begin), std::min(static_cast<int32_t>(last), seeing.end)};
    if (piece.begin >= piece.end) return;
    if (!list.empty() && list.back().segment == segment && list.back().end == piece.begin)
      list.back().end = piece.end;
    else
      list.push_back(piece);
  }

  const Problem& p_;
  std::vector<KeyTile> tiles_;
  std::vector<int32_t> tile_of_;  // of each row of keys, and the number of tiles behind the last
};

}  // namespace tenon::sdk::flash::gpu
