// What the host prepares for the kernels of one pass: nothing but numbers of tiles where the mask alone says what a query sees, lists where a
// pattern does as well.
#pragma once

#include <memory>

#include "sdk/attention/flash/gpu/lists.h"

namespace tenon::sdk::flash::gpu {

class DensePlan {
 public:
  using Plain = DenseRows;
  DensePlan(const Problem& p, bool backward) : p_(&p), backward_(backward) {}
  void reserve(sdk::Workspace& memory) {
    const int64_t n = static_cast<int64_t>(p_->segments.size());
    if (n > 1) query_tiles = memory.take<int64_t>(n);
    if (n > 1 && backward_) key_tiles = memory.take<int64_t>(n);
  }
  void upload(const tn_exec*) const {}
  Plain plain(const Call& c) const { return Plain(c); }
  const std::vector<sdk::Segment>& segments() const { return p_->segments; }

  int64_t *query_tiles = nullptr, *key_tiles = nullptr;  // room on the device for the number of each segment's first tile

 private:
  const Problem* p_;
  bool backward_;
};

class ListPlan {
 public:
  using Plain = ListedRows;
  ListPlan(const Problem& p, bool backward) : p_(&p) {
    if (p.t_k >= kMostRows || p.t_q * p.group >= kMostRows)
      sdk::fail(TN_E_UNSUPPORTED, "attention over tiles takes fewer than 2^29 rows of queries or keys on a GPU; cut the call");
    rows = lists_of_rows(p);
    if (backward) keys = KeyListMaker(p).make();
  }
  void reserve(sdk::Workspace& memory) {
    rows.reserve(memory);
    if (!keys.begin.empty()) keys.reserve(memory);
  }
  void upload(const tn_exec* exec) const { rows.upload(exec), keys.upload(exec); }
  Plain plain(const Call& c) const { return Plain(c, rows.device, keys.device); }
  const std::vector<sdk::Segment>& segments() const { return p_->segments; }

  HostLists<RowTile, Keys> rows;
  HostLists<KeyTile, QueryPiece> keys;

 private:
  const Problem* p_;
};

}  // namespace tenon::sdk::flash::gpu
