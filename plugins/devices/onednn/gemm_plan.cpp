#include "devices/onednn/gemm_plan.h"

#include <algorithm>

#include "devices/onednn/choose_type.h"
#include "devices/onednn/convert.h"
#include "devices/onednn/long_sum.h"
#include "devices/onednn/thin_product.h"
#include "sdk/base.h"

namespace tenon::onednn {
namespace {

// Limits of a tile whose operands are converted. At these sizes a conversion costs a percent or two of the product, and
// workspace stays below 20 MB however large the matrices are.
constexpr int64_t kTileRows = 1024, kTileDepth = 2048;
// Where the sum is short B is small and its conversion cheap, but rows of C that are cut in tiles make the library sum
// in a buffer of its own.
constexpr int64_t kShortSum = 64, kShortSumColumns = 16384;

uint64_t aligned(uint64_t n) {
  return (n + TN_ALIGNMENT - 1) / TN_ALIGNMENT * TN_ALIGNMENT;
}

// Equal tiles of at most `limit`, of a size that suits the vector units.
int64_t tile_size(int64_t extent, int64_t limit) {
  const int64_t parts = (extent + limit - 1) / limit, each = (extent + parts - 1) / parts;
  return std::min(extent, (each + 63) / 64 * 64);
}

bool is_type(Storage s, Type t) {
  return static_cast<int64_t>(s) == static_cast<int64_t>(t);
}
int64_t element_bytes(Storage s) {
  return s == Storage::kF32 ? 4 : 2;
}
const char* step(const void* p, int64_t elements, Storage s) {
  return static_cast<const char*>(p) + elements * element_bytes(s);
}

}  // namespace

Type compute_type(Storage a, Storage b, bool exact) {
  if (a == Storage::kBF16 && b == Storage::kBF16) return bf16_is_fast() ? Type::kBF16 : Type::kF32;
  const bool mixed = (a == Storage::kBF16 && b == Storage::kF32) || (a == Storage::kF32 && b == Storage::kBF16);
  return mixed && !exact && bf16_is_fast() ? Type::kBF16 : Type::kF32;
}

GemmPlan::GemmPlan(const Problem& problem) : p_(problem), compute_(compute_type(problem.a, problem.b, problem.exact)) {
  bool empty = p_.m == 0 || p_.n == 0;
  for (int64_t i = 0; i < p_.batch_axes; ++i) empty = empty || p_.batch[i] == 0;
  if (empty) p_.m = p_.n = 0;
  if (empty || p_.k == 0 || p_.alpha == Factor::kZero) return;  // nothing to multiply
  thin_ = is_thin(p_);
  if (thin_) return;
  long_sum_ = is_long_sum(p_, compute_ == Type::kBF16);
  if (long_sum_) {
    workspace_bytes_ = long_sum_bytes(p_);
    return;
  }
  const auto odd = [](int64_t row, int64_t col) { return row != 1 && col != 1; };
  convert_a_ = !is_type(p_.a, compute_) || odd(p_.a_row, p_.a_col);
  convert_b_ = !p_.packed_b && (!is_type(p_.b, compute_) || odd(p_.b_row, p_.b_col));
  if (p_.packed_b && !is_type(p_.b, compute_))
    sdk::fail(TN_E_UNSUPPORTED, "gemm: pack does not offer a B of this type on this machine");
  if (p_.packed_b && p_.batch_axes > 0) sdk::fail(TN_E_UNSUPPORTED, "gemm: a packed B has no batch");
  // What the library's post-operations cannot say is done by the epilogue.
  accumulate_ = p_.c_col != 1 || (p_.bias != Storage::kNone && (p_.alpha != Factor::kOne || p_.swapped)) ||
                p_.beta == Factor::kOther || (p_.c == Storage::kBF16 && compute_ == Type::kF32);
  if (!convert_a_ && !convert_b_ && !accumulate_ && plan_at_once()) return;
  plan_tiles();
}

// One call of the library for the whole product.
bool GemmPlan::plan_at_once() {
  MatmulSpec s{};
  s.m = p_.m, s.n = p_.n, s.k = p_.k;
  s.a_row = p_.a_row, s.a_col = p_.a_col, s.b_row = p_.b_row, s.b_col = p_.b_col, s.c_row = p_.c_row;
  s.ab = compute_, s.c = p_.c == Storage::kF32 ? Type::kF32 : Type::kBF16;
  s.has_bias = p_.bias != Storage::kNone, s.packed_b = p_.packed_b;
  s.has_alpha = p_.alpha != Factor::kOne, s.adds = p_.beta == Factor::kOne;
  tile_m_ = p_.m, tile_n_ = p_.n, tile_k_ = p_.k;
  auto& kernel = kernels_[1][1][1][1];
  if (p_.batch_axes > 0) {
    MatmulSpec whole = s;
    whole.batch_axes = p_.batch_axes;
    std::copy_n(p_.batch, kMaxBatchAxes, whole.batch);
    std::copy_n(p_.a_batch, kMaxBatchAxes, whole.a_batch);
    std::copy_n(p_.b_batch, kMaxBatchAxes, whole.b_batch);
    std::copy_n(p_.c_batch, kMaxBatchAxes, whole.c_batch);
    kernel = make_matmul(whole);
    whole_batch_ = kernel != nullptr;
  }
  if (!kernel) kernel = make_matmul(s);
  if (!kernel) return false;
  lay_out(s.has_bias ? static_cast<uint64_t>(p_.n) * 4 : 0, 0, 0, 0);
  return true;
}

void GemmPlan::plan_tiles() {
  const bool f32_c = p_.c == Storage::kF32;
  for (int attempt = 0;; ++attempt) {
    tile_m_ = convert_a_ || accumulate_ ? tile_size(p_.m, kTileRows) : p_.m;
    tile_n_ = (convert_b_ || accumulate_) && !p_.packed_b
                  ? tile_size(p_.n, p_.k <= kShortSum ? kShortSumColumns : kTileRows)
                  : p_.n;
    tile_k_ = (convert_a_ || convert_b_) && !p_.packed_b ? tile_size(p_.k, kTileDepth) : p_.k;
    // Partial sums over k may stand in C only where C is f32.
    if (tile_k_ < p_.k && !f32_c && !accumulate_) {
      accumulate_ = true;
      continue;
    }
    bool complete = true;
    for (int choice = 0; choice < 16 && complete; ++choice) {
      const bool last_m = choice & 1, last_n = choice & 2, last_k = choice & 4, first_k = choice & 8;
      const auto extent = [](int64_t whole, int64_t tile, bool last) {
        return last ? whole - (whole - 1) / tile * tile : tile;
      };
      const auto absent = [](int64_t whole, int64_t tile, bool last) { return !last && tile >= whole; };
      if (absent(p_.m, tile_m_, last_m) || absent(p_.n, tile_n_, last_n) || absent(p_.k, tile_k_, last_k)) continue;
      if (tile_k_ >= p_.k && !first_k) continue;
      MatmulSpec s{};
      s.m = extent(p_.m, tile_m_, last_m), s.n = extent(p_.n, tile_n_, last_n), s.k = extent(p_.k, tile_k_, last_k);
      s.ab = compute_, s.packed_b = p_.packed_b;
      // Converted tiles keep the order of their source, dense.
      const bool a_rows = p_.a_col == 1 || p_.a_row != 1, b_rows = p_.b_col == 1 || p_.b_row != 1;
      s.a_row = !convert_a_ ? p_.a_row : a_rows ? s.k : 1, s.a_col = !convert_a_ ? p_.a_col : a_rows ? 1 : s.m;
      s.b_row = !convert_b_ ? p_.b_row : b_rows ? s.n : 1, s.b_col = !convert_b_ ? p_.b_col : b_rows ? 1 : s.k;
      if (accumulate_) {
        s.c = Type::kF32, s.c_row = s.n, s.adds = !first_k;
      } else {
        s.c = f32_c ? Type::kF32 : Type::kBF16, s.c_row = p_.c_row;
        s.has_alpha = p_.alpha != Factor::kOne, s.adds = first_k ? p_.beta == Factor::kOne : 1;
        s.has_bias = p_.bias != Storage::kNone && first_k;
      }
      auto& kernel = kernels_[last_m][last_n][last_k][first_k];
      kernel = make_matmul(s);
      complete = kernel != nullptr;
    }
    if (complete) break;
    // Strides that the library does not take: dense copies of everything.
    if (attempt > 2) sdk::fail(TN_E_UNSUPPORTED, "gemm: oneDNN offers no kernel for this product");
    convert_a_ = accumulate_ = true;
    convert_b_ = !p_.packed_b;
    for (auto& k : kernels_)
      for (auto& l : k)
        for (auto& o : l)
          for (auto& q : o) q.reset();
  }
  const uint64_t bytes = size_of(compute_);
  lay_out(p_.bias != Storage::kNone ? static_cast<uint64_t>(p_.swapped ? p_.m : p_.n) * 4 : 0,
          convert_a_ ? static_cast<uint64_t>(tile_m_ * tile_k_) * bytes : 0,
          convert_b_ ? static_cast<uint64_t>(tile_k_ * tile_n_) * bytes : 0,
          accumulate_ ? static_cast<uint64_t>(tile_m_ * tile_n_) * 4 : 0);
}

void GemmPlan::lay_out(uint64_t bias, uint64_t a, uint64_t b, uint64_t accumulator) {
  bias_at_ = 0;
  a_at_ = bias_at_ + aligned(bias);
  b_at_ = a_at_ + aligned(a);
  accumulator_at_ = b_at_ + aligned(b);
  scratch_at_ = accumulator_at_ + aligned(accumulator);
  uint64_t scratch = 0;
  for (const auto& k : kernels_)
    for (const auto& l : k)
      for (const auto& o : l)
        for (const auto& q : o) scratch = std::max(scratch, q ? q->scratch_bytes() : 0);
  workspace_bytes_ = scratch_at_ + scratch;
}

const Matmul& GemmPlan::kernel(const Place& at) const {
  return *kernels_[at.m0 + at.m == p_.m][at.n0 + at.n == p_.n][at.last_k][at.first_k];
}

void GemmPlan::each_batch(const Pointers& pointers, auto&& body) const {
  int64_t total = 1;
  for (int64_t i = 0; i < p_.batch_axes; ++i) total *= p_.batch[i];
  for (int64_t index = 0; index < total; ++index) {
    int64_t rest = index, a = 0, b = 0, c = 0;
    for (int64_t i = p_.batch_axes - 1; i >= 0; --i) {
      const int64_t at = rest % p_.batch[i];
      rest /= p_.batch[i];
      a += at * p_.a_batch[i], b += at * p_.b_batch[i], c += at * p_.c_batch[i];
    }
    body(Pointers{step(pointers.a, a, p_.a), step(pointers.b, b, p_.b), pointers.bias,
                  const_cast<char*>(step(pointers.c, c, p_.c)), pointers.alpha, pointers.beta});
  }
}

void GemmPlan::run(const Pointers& pointers, void* workspace) const {
  if (p_.m == 0 || p_.n == 0) return;
  if (thin_) return run_thin(p_, pointers);
  if (long_sum_) return run_long_sum(p_, pointers, workspace);
  auto* const space = static_cast<char*>(workspace);
  Pointers q = pointers;
  if (p_.bias != Storage::kNone && workspace_bytes_ > 0) {
    auto* const bias = reinterpret_cast<float*>(space + bias_at_);
    copy_vector(p_.bias, pointers.bias, p_.bias_stride, p_.swapped ? p_.m : p_.n, bias);
    q.bias = bias;
  }
  if (workspace_bytes_ == 0 && !kernels_[1][1][1][1])
    return each_batch(pointers, [&](const Pointers& one) { scale_only(one); });
  if (whole_batch_)
    return kernels_[1][1][1][1]->run(q.a, q.b, q.c, q.bias, static_cast<float>(q.alpha), space + scratch_at_);
  each_batch(q, [&](const Pointers& one) { run_matrix(one, space); });
}

void GemmPlan::run_matrix(const Pointers& pointers, char* workspace) const {
  for (int64_t n0 = 0; n0 < p_.n; n0 += tile_n_)
    for (int64_t m0 = 0; m0 < p_.m; m0 += tile_m_)
      for (int64_t k0 = 0; k0 < p_.k; k0 += tile_k_) {
        const Place at{m0,
                       n0,
                       k0,
                       std::min(tile_m_, p_.m - m0),
                       std::min(tile_n_, p_.n - n0),
                       std::min(tile_k_, p_.k - k0),
                       k0 == 0,
                       k0 + tile_k_ >= p_.k};
        run_tile(at, pointers, workspace);
      }
}

void GemmPlan::run_tile(const Place& at, const Pointers& pointers, char* workspace) const {
  const auto operand = [&](const void* p, Storage s, int64_t row0, int64_t col0, int64_t rows, int64_t cols,
                           int64_t row, int64_t col, bool convert, uint64_t place) -> const void* {
    const char* const from = step(p, row0 * row + col0 * col, s);
    if (!convert) return from;
    copy_matrix({s, from, rows, cols, row, col}, compute_, workspace + place);
    return workspace + place;
  };
  const void* a = operand(pointers.a, p_.a, at.m0, at.k0, at.m, at.k, p_.a_row, p_.a_col, convert_a_, a_at_);
  const void* b = p_.packed_b
                      ? pointers.b
                      : operand(pointers.b, p_.b, at.k0, at.n0, at.k, at.n, p_.b_row, p_.b_col, convert_b_, b_at_);
  char* const c = const_cast<char*>(step(pointers.c, at.m0 * p_.c_row + at.n0 * p_.c_col, p_.c));
  const auto* const bias = static_cast<const float*>(pointers.bias);
  char* const scratch = workspace + scratch_at_;
  if (!accumulate_) {
    kernel(at).run(a, b, c, bias ? bias + at.n0 : nullptr, static_cast<float>(pointers.alpha), scratch);
    return;
  }
  auto* const tile = reinterpret_cast<float*>(workspace + accumulator_at_);
  kernel(at).run(a, b, tile, nullptr, 1.0f, scratch);
  if (!at.last_k) return;
  const float* const row_bias = bias && p_.swapped ? bias + at.m0 : nullptr;
  const float* const col_bias = bias && !p_.swapped ? bias + at.n0 : nullptr;
  finish_tile(tile, at.m, at.n, pointers.alpha, pointers.beta, row_bias, col_bias, p_.c, c, p_.c_row, p_.c_col);
}

// C = beta · C + bias: no product at all.
void GemmPlan::scale_only(const Pointers& pointers) const {
  for (int64_t i = 0; i < p_.m; ++i) {
    char* const row = const_cast<char*>(step(pointers.c, i * p_.c_row, p_.c));
    scale_row(p_.c, row, p_.n, p_.c_col, pointers.beta, p_.bias,
              step(pointers.bias, p_.swapped ? i * p_.bias_stride : 0, p_.bias), p_.swapped ? 0 : p_.bias_stride);
  }
}

}  // namespace tenon::onednn
