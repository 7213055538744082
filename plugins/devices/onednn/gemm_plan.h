// How a product is carried out: at once, or in tiles whose operands are converted into the workspace first.
#pragma once

#include <memory>

#include "devices/onednn/gemm_problem.h"

namespace tenon::onednn {

class GemmPlan {
 public:
  explicit GemmPlan(const Problem& problem);

  uint64_t workspace_bytes() const { return workspace_bytes_; }
  // [any-thread], given separate workspaces.
  void run(const Pointers& pointers, void* workspace) const;

 private:
  struct Place {  // of one tile
    int64_t m0, n0, k0, m, n, k;
    bool first_k, last_k;
  };
  bool plan_at_once();
  void plan_tiles();
  void lay_out(uint64_t bias, uint64_t a, uint64_t b, uint64_t accumulator);
  const Matmul& kernel(const Place& at) const;
  void run_matrix(const Pointers& pointers, char* workspace) const;
  void run_tile(const Place& at, const Pointers& pointers, char* workspace) const;
  void scale_only(const Pointers& pointers) const;
  void each_batch(const Pointers& pointers, auto&& body) const;

  Problem p_;
  Type compute_;
  bool thin_ = false;         // by thin_product.h
  bool long_sum_ = false;     // by long_sum.h
  bool whole_batch_ = false;  // the kernel walks the batch itself
  bool convert_a_ = false, convert_b_ = false;
  bool accumulate_ = false;  // products go to an f32 tile first, from where alpha, beta and bias are applied
  int64_t tile_m_ = 0, tile_n_ = 0, tile_k_ = 0;
  // By last tile along m, n, k, and first along k.
  std::unique_ptr<const Matmul> kernels_[2][2][2][2];
  uint64_t bias_at_ = 0, a_at_ = 0, b_at_ = 0, accumulator_at_ = 0, scratch_at_ = 0, workspace_bytes_ = 0;
};

// The type in which operands of these storage types are multiplied on this machine.
Type compute_type(Storage a, Storage b, bool exact);

}  // namespace tenon::onednn
