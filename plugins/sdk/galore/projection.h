// One matrix under GaLore or a rule built on it: its bases and its projected moments, and where they lie.
#pragma once

#include "sdk/adam8.h"
#include "sdk/linalg/norm.h"
#include "sdk/linalg/subspace.h"

namespace tenon::sdk::galore {

enum class Side { kStd, kReverseStd, kLeft, kRight, kFull };
enum class Moments { kKeep, kReset, kRotate };
enum class Svd { kExact, kRandomized, kAuto };

struct Settings {
  AdamSettings adam;
  int64_t rank, gap;
  double scale;
  Side side;
  Moments moments;
  Svd svd;
  bool stagger, eight_bit;
  int64_t min_8bit_size, blocksize;
  tn_dtype basis_dtype;
};

inline constexpr tn_hyper_info kHyperRank =
                                   integer("rank", "128", 1, 1048576, nullptr,
                                           "dimension of the subspace; at most the matrix's shorter side is used"),
                               kHyperGap = integer("update_proj_gap", "200", 1, 9007199254740992.0, "steps",
                                                   "updates of a parameter between two refreshes of its subspace"),
                               kHyperSvd = choice("svd", "auto", "auto|exact|randomized",
                                                  "how the subspace is found; auto: exact up to a shorter side of 256");
inline Side side_of(std::string_view name) {
  return name == "std"           ? Side::kStd
         : name == "reverse_std" ? Side::kReverseStd
         : name == "left"        ? Side::kLeft
         : name == "right"       ? Side::kRight
                                 : Side::kFull;
}
inline Svd svd_of(std::string_view name) {
  return name == "exact" ? Svd::kExact : name == "randomized" ? Svd::kRandomized : Svd::kAuto;
}

inline constexpr int64_t kExactBelow = 256;  // the shorter side up to which `auto` takes the exact subspace
inline constexpr int kColdIterations = 3, kWarmIterations = 2;
inline constexpr int64_t kTile = 1 << 18;  // elements of the update in flight when a weight is not f32 alone

// What follows from the shape. G is [m, n]; the left basis [m, r] spans its columns, the right one [n, r] its rows.
struct Plan {
  int64_t m, n, r;
  bool left, right;
  bool eight_bit;
  const Settings* settings;

  Plan(const Settings& s, int64_t m, int64_t n) : m(m), n(n), r(std::min(s.rank, std::min(m, n))), settings(&s) {
    const bool tall = m >= n;
    left = s.side == Side::kFull || s.side == Side::kLeft || (s.side == Side::kStd && !tall) ||
           (s.side == Side::kReverseStd && tall);
    right = s.side == Side::kFull || !left;
    eight_bit = s.eight_bit && projected() >= s.min_8bit_size;
  }
  int64_t rows() const { return left ? r : m; }  // of the projected gradient
  int64_t columns() const { return right ? r : n; }
  int64_t projected() const { return rows() * columns(); }
  int64_t basis() const { return ((left ? m : 0) + (right ? n : 0)) * r; }
  uint32_t first_moment() const { return left && right ? 2 : 1; }  // its slot
  int64_t tile_rows() const { return std::min((m + 7) / 8 * 8, std::max<int64_t>(8, kTile / n / 8 * 8)); }
  Subspace subspace(bool of_left) const {
    const bool exact = settings->svd == Svd::kExact || (settings->svd == Svd::kAuto && std::min(m, n) <= kExactBelow);
    return of_left ? Subspace(n, m, r, exact) : Subspace(m, n, r, exact);
  }
  Matrix directed(const Matrix& g, bool of_left) const { return of_left ? g.transposed() : g; }
};

inline void declare_states(const Plan& p, const tn_state_sink& sink) {
  const int64_t left[] = {p.m, p.r}, right[] = {p.n, p.r}, moment[] = {p.rows(), p.columns()};
  const char* single = "projector";
  if (p.left) declare_slot(sink, p.right ? "projector_left" : single, TN_SLOT_BASIS, p.settings->basis_dtype, 2, left);
  if (p.right)
    declare_slot(sink, p.left ? "projector_right" : single, TN_SLOT_BASIS, p.settings->basis_dtype, 2, right);
  if (p.eight_bit) return adam8_declare(sink, 2, moment, p.settings->blocksize);
  declare_slot(sink, "exp_avg", TN_SLOT_VALUE, kF32, 2, moment);
  declare_slot(sink, "exp_avg_sq", TN_SLOT_VALUE, kF32, 2, moment);
}
inline uint64_t state_bytes(const Plan& p) {
  return static_cast<uint64_t>(p.basis()) * p.settings->basis_dtype.bits / 8 +
         (p.eight_bit ? adam8_bytes(p.projected(), p.settings->blocksize) : 8 * static_cast<uint64_t>(p.projected()));
}

// Where everything lies in the workspace. A refresh and the step after it use the same memory in turn.
struct Buffers {
  float *left = nullptr, *right = nullptr;  // bases in f32, where the states are bf16
  float *fresh = nullptr, *turn = nullptr, *moment = nullptr, *turned = nullptr;
  SquaredNorm norm;
  Subspace of_left, of_right;
  float *projected = nullptr, *half = nullptr, *tile = nullptr;
  uint64_t fixed = 0;  // bytes; the products' workspace lies behind

  // What the caller has taken from w stays his.
  Buffers(const Plan& p, Workspace& w) : norm(p.m * p.n), of_left(p.subspace(true)), of_right(p.subspace(false)) {
    const bool staged = !same(p.settings->basis_dtype, kF32);
    if (staged && p.left) left = w.take<float>(p.m * p.r);
    if (staged && p.right) right = w.take<float>(p.n * p.r);
    const uint64_t mark = w.mark();
    norm.lay_out(w);
    fresh = w.take<float>(std::max(p.left ? p.m : 0, p.right ? p.n : 0) * p.r);
    const uint64_t found = w.mark();
    if (p.left) of_left.lay_out(w);
    w.release(found);
    if (p.right) of_right.lay_out(w);
    w.release(found);
    if (p.settings->moments == Moments::kRotate) {
      turn = w.take<float>(p.r * p.r), turned = w.take<float>(p.projected());
      moment = p.eight_bit ? w.take<float>(p.projected()) : nullptr;
    }
    w.release(mark);
    projected = w.take<float>(p.projected());
    if (p.left && p.right) half = w.take<float>(p.r * std::max(p.m, p.n));
    tile = w.take<float>(p.tile_rows() * p.n);
    fixed = w.peak();
  }
};

// The workspace of the largest product of an update.
inline uint64_t product_bytes(const Plan& p, const Buffers& b, const Products& product) {
  uint64_t most = 0;
  const auto add = [&](const Matrix& x, const Matrix& y, const Matrix& z) {
    most = std::max(most, product.measure(x, y, z));
  };
  const auto dense = [](int64_t rows, int64_t columns) { return Matrix::dense(nullptr, rows, columns); };
  for (const tn_dtype dtype : {kF32, kBF16}) {  // of the gradient
    const Matrix g{nullptr, dtype, p.m, p.n, p.n, 1};
    if (p.left) most = std::max(most, b.of_left.measure(product, g.transposed()));
    if (p.right) most = std::max(most, b.of_right.measure(product, g));
    if (p.left)
      add(dense(p.m, p.r).transposed(), g, dense(p.r, p.n));
    else
      add(g, dense(p.n, p.r), dense(p.m, p.r));
  }
  const int64_t tile = p.tile_rows();
  for (const int64_t rows : {p.m, std::min(tile, p.m), p.m % tile}) {
    if (p.right)
      add(dense(rows, p.r), dense(p.n, p.r).transposed(), dense(rows, p.n));
    else
      add(dense(rows, p.r), dense(p.r, p.n), dense(rows, p.n));
  }
  if (p.left && p.right)
    add(dense(p.r, p.n), dense(p.n, p.r), dense(p.r, p.r)), add(dense(p.m, p.r), dense(p.r, p.r), dense(p.m, p.r));
  if (p.settings->moments == Moments::kRotate) {
    if (p.left) {
      add(dense(p.m, p.r).transposed(), dense(p.m, p.r), dense(p.r, p.r));
      add(dense(p.r, p.r).transposed(), dense(p.r, p.columns()), dense(p.r, p.columns()));
    }
    if (p.right) {
      add(dense(p.n, p.r).transposed(), dense(p.n, p.r), dense(p.r, p.r));
      add(dense(p.rows(), p.r), dense(p.r, p.r), dense(p.rows(), p.r));
    }
  }
  return most;
}

// An update of matrix e with these buffers, refreshes spread over the gap.
inline void estimate(const Plan& p, const Buffers& b, const Products& product, const Parameters::Entry& e,
                     tn_estimate& out) {
  const double r = static_cast<double>(p.r), n = static_cast<double>(e.n);
  out.state_bytes = state_bytes(p);
  out.workspace_bytes = b.fixed + product_bytes(p, b, product);
  const double refresh =
      (p.left ? b.of_left.flops(kWarmIterations) : 0) + (p.right ? b.of_right.flops(kWarmIterations) : 0);
  out.flops = (p.left && p.right ? 4 * n * r + 4 * r * r * static_cast<double>(p.m + p.n) : 4 * n * r) +
              14.0 * static_cast<double>(p.projected()) + refresh / static_cast<double>(p.settings->gap);
  out.bytes_moved = 2.0 * static_cast<double>(out.state_bytes) + 3.0 * n * e.info.dtype.bits / 8;
}

}  // namespace tenon::sdk::galore
