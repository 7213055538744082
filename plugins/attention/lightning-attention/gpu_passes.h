// The passes on a GPU: chunks of all heads side by side, as batches of products of the device with kernels around them. What each chunk adds to
// the state, the states before the chunks by one sum along each sequence, then the outputs of all chunks at once. Chunks go through the workspace
// in windows of a bounded number of bytes; a backward pass remembers the state before each window and computes the rest again.
#pragma once

#include <functional>

#include "gpu_kernels.h"
#include "problem.h"
#include "sdk/device_memory.h"
#include "sdk/linalg/matrix.h"
#include "sdk/workspace.h"

namespace tenon::lightning {

using sdk::Matrices;

inline constexpr int64_t kWindowFloats = int64_t{1} << 24;

// The chunks of all sequences, one sequence behind the other.
struct Course {
  std::vector<Piece> pieces;
  int64_t rows = 1;  // of a unit

  explicit Course(const Problem& p) {
    for (int64_t b = 0; b < p.batch; ++b)
      for (size_t l = 0; l < p.lines.size(); ++l) {
        const Line& line = p.lines[l];
        const sdk::Segment& s = line.segment;
        const int64_t sequence = p.listed ? static_cast<int64_t>(l) : b, far = int64_t{1} << 60;
        const size_t first = pieces.size();
        int64_t position = s.k_len > 0 ? std::min(s.k_pos, s.q_pos) : s.q_pos;
        for (const Chunk& c : line.chunks) {
          pieces.push_back({c.n, c.q_row, c.nq, c.q_at, c.k_row, c.nk, c.k_at, b, sequence, p.carried ? -far : s.k_len > 0 ? s.k_pos - position : far, false, false});
          rows = std::max({rows, c.q_at + c.nq, c.k_at + c.nk}), position += c.n;
        }
        if (line.chunks.empty()) pieces.push_back({0, 0, 0, 0, 0, 0, 0, b, sequence, 0, false, false});  // its state passes through
        pieces[first].starts = pieces.back().ends = true;
      }
  }
  int64_t size() const { return static_cast<int64_t>(pieces.size()); }
};

// The matrices of the units of one window: m of them.
struct Units {
  Sizes z;
  int64_t m = 0;
  float *q = nullptr, *qd = nullptr, *k = nullptr, *kd = nullptr, *v = nullptr, *o = nullptr, *p = nullptr, *s = nullptr;
  float *vd = nullptr, *g = nullptr, *gd = nullptr, *dp = nullptr, *r = nullptr, *dq = nullptr, *dk = nullptr, *dv = nullptr;

  static int64_t floats(const Sizes& z, bool backward) {
    const int64_t d = z.rows * z.d, e = z.rows * z.e, state = z.d * z.e, scores = z.rows * z.rows;
    return backward ? 6 * d + 5 * e + 2 * state + 2 * scores : 4 * d + 2 * e + state + scores;
  }
  void reserve(sdk::Workspace& w, bool backward) {
    const int64_t d = m * z.rows * z.d, e = m * z.rows * z.e, state = m * z.d * z.e, scores = m * z.rows * z.rows;
    q = w.take(d), qd = w.take(d), k = w.take(d), kd = w.take(d), v = w.take(e), p = w.take(scores), s = w.take(state);
    if (!backward) {
      o = w.take(e);
      return;
    }
    vd = w.take(e), g = w.take(e), gd = w.take(e), dp = w.take(scores), r = w.take(state), dq = w.take(d), dk = w.take(d), dv = w.take(e);
  }

  // f(alpha, A, B, beta, C) for each product.
  template <class F>
  void add_up(F f) const {
    f(1, of(kd, z.d).transposed(), of(v, z.e), 0, states(s));
  }
  template <class F>
  void score(F f) const {
    f(1, of(q, z.d), of(k, z.d).transposed(), 0, squares(p));
  }
  template <class F>
  void outputs(F f) const {
    f(1, of(qd, z.d), states(s), 0, of(o, z.e)), f(1, squares(p), of(v, z.e), 1, of(o, z.e));
  }
  template <class F>
  void add_back(F f) const {
    f(1, of(qd, z.d).transposed(), of(g, z.e), 0, states(r)), f(1, of(g, z.e), of(v, z.e).transposed(), 0, squares(dp));
  }
  template <class F>
  void gradients(F f) const {
    f(1, of(gd, z.e), states(s).transposed(), 0, of(dq, z.d)), f(1, squares(dp), of(k, z.d), 1, of(dq, z.d));
    f(1, of(vd, z.e), states(r).transposed(), 0, of(dk, z.d)), f(1, squares(dp).transposed(), of(q, z.d), 1, of(dk, z.d));
    f(1, of(kd, z.d), states(r), 0, of(dv, z.e)), f(1, squares(p).transposed(), of(g, z.e), 1, of(dv, z.e));
  }

 private:
  Matrices of(float* x, int64_t width) const { return Matrices::dense(x, m, z.rows, width); }
  Matrices states(float* x) const { return Matrices::dense(x, m, z.d, z.e); }
  Matrices squares(float* x) const { return Matrices::dense(x, m, z.rows, z.rows); }
};

class Pass {
 public:
  Pass(const Problem& p, tn_dtype dtype, bool backward)
      : p_(p), course_(p), backward_(backward), exact_(sdk::same(dtype, sdk::kF32)), z_{p.heads, p.group, course_.rows, p.d, p.e, nullptr} {
    const int64_t chunk = p.heads * Units::floats(z_, backward);
    window_ = std::clamp<int64_t>(kWindowFloats / std::max<int64_t>(1, chunk), 1, std::max<int64_t>(1, course_.size()));
    windows_ = (course_.size() + window_ - 1) / window_;
    for (const char t : p.touched) untouched_ = untouched_ || !t;
  }

  uint64_t bytes(const tn_device_api* api, tn_device* device) {
    sdk::Workspace count;
    reserve(count);
    const sdk::Products products(api, device, nullptr, nullptr, 0, exact_);
    const auto measure = [&](double alpha, const Matrices& a, const Matrices& b, double beta, const Matrices& c) {
      product_bytes_ = std::max(product_bytes_, products.measure(a, b, c, alpha, beta));
    };
    for (const int64_t pieces : {window_, course_.size() - (windows_ - 1) * window_}) {
      units_.m = pieces * p_.heads;
      units_.add_up(measure), units_.score(measure), backward_ ? (units_.add_back(measure), units_.gradients(measure)) : units_.outputs(measure);
    }
    return count.peak() + product_bytes_;
  }

  void forward(const tn_exec& exec, const ForwardPorts& f) {
    begin(exec);
    for (int64_t w = 0; w < windows_; ++w) {
      enter(w);
      gather(f.q, f.k, f.v);
      units_.add_up(multiply_);
      advance(carry_, state_of(f.state_in), state_of(f.state_out), true);
      units_.score(multiply_);
      sdk::for_each(&exec, units_.m * z_.rows * z_.rows, Decay{z_, units_.p});
      units_.outputs(multiply_);
      sdk::for_each_block(&exec, units_.m * z_.rows, Finish{z_, pieces_, units_.o, p_.norm, static_cast<float>(kEpsilon), sdk::Rows(f.o), sdk::Numbers(f.lse)}, z_.e);
    }
  }

  void backward(const tn_exec& exec, const BackwardPorts& b) {
    begin(exec);
    const int64_t state = z_.heads * z_.d * z_.e;
    for (int64_t w = 0; w + 1 < windows_; ++w) {
      enter(w);
      gather_side(b.k, p_.d, true, 1, nullptr, units_.kd), gather_side(b.v, p_.e, true, 1, units_.v, nullptr);
      units_.add_up(multiply_);
      advance(carry_, state_of(b.state_in), {}, false);
      sdk::copy_within(&exec, carry_, begins_ + (w + 1) * state, static_cast<uint64_t>(state) * sizeof(float));
    }
    for (int64_t w = windows_; w-- > 0;) {
      enter(w);
      gather(b.q, b.k, b.v);
      const int64_t rows = units_.m * z_.rows;
      sdk::for_each_block(&exec, rows, GatherGradient{z_, pieces_, sdk::Rows(b.d_o), sdk::Rows(b.o), sdk::Numbers(b.lse), p_.norm, units_.g, units_.gd}, z_.e);
      units_.add_up(multiply_);
      advance(begins_ + w * state, state_of(b.state_in), {}, true);
      units_.add_back(multiply_);
      sdk::for_each(&exec, state, Retreat{z_, pieces_, count_, units_.r, carry_, state_of(b.d_state_out), state_of(b.d_state_in)});
      units_.score(multiply_);
      for (float* x : {units_.p, units_.dp}) sdk::for_each(&exec, rows * z_.rows, Decay{z_, x});
      units_.gradients(multiply_);
      sdk::for_each(&exec, rows * p_.d, ScatterQueries{z_, pieces_, units_.dq, p_.scale, sdk::Rows(b.dq)});
      const int64_t key_rows = rows / p_.group;
      sdk::for_each(&exec, key_rows * p_.d, ScatterKeys{z_, pieces_, units_.dk, p_.d, sdk::Rows(b.dk)});
      sdk::for_each(&exec, key_rows * p_.e, ScatterKeys{z_, pieces_, units_.dv, p_.e, sdk::Rows(b.dv)});
    }
    if (!untouched_) return;
    const int64_t rows = p_.batch * p_.t_k * p_.kv_heads;
    sdk::for_each(&exec, rows * p_.d, ClearUntouched{touched_, p_.t_k, p_.kv_heads, p_.d, sdk::Rows(b.dk)});
    sdk::for_each(&exec, rows * p_.e, ClearUntouched{touched_, p_.t_k, p_.kv_heads, p_.e, sdk::Rows(b.dv)});
  }

  void one_token(const tn_exec& exec, const ForwardPorts& f) {
    sdk::Workspace workspace(exec);
    z_.sigma = upload_sigma(exec, workspace);
    sdk::for_each_block<DecodeToken::kShared>(&exec, p_.batch * p_.heads,
                                              DecodeToken{z_, p_.scale, static_cast<float>(kEpsilon), p_.norm, sdk::Rows(f.q), sdk::Rows(f.k), sdk::Rows(f.v),
                                                          sdk::Rows(f.o), sdk::Numbers(f.lse), state_of(f.state_in), state_of(f.state_out)},
                                              p_.e);
  }

 private:
  static States state_of(const sdk::StateBytes& s) { return {s.data, s.row}; }
  const double* upload_sigma(const tn_exec& exec, sdk::Workspace& w) const {
    double* const to = w.take<double>(p_.heads);
    sdk::copy_to_device(&exec, p_.sigma.data(), to, p_.heads);
    return to;
  }

  // σ first, as a token alone needs nothing else.
  void reserve(sdk::Workspace& w) {
    z_.sigma = w.take<double>(p_.heads), all_pieces_ = w.take<Piece>(course_.size());
    if (backward_ && untouched_) touched_ = w.take<uint8_t>(p_.t_k);
    const int64_t state = z_.heads * z_.d * z_.e;
    carry_ = w.take(state);
    if (backward_) begins_ = w.take(windows_ * state);
    units_.z = z_, units_.m = window_ * p_.heads;
    units_.reserve(w, backward_);
  }
  void begin(const tn_exec& exec) {
    sdk::Workspace workspace(exec);
    reserve(workspace);
    exec_ = &exec;
    const sdk::Products products(exec.api, exec.device, exec.stream, workspace.behind(workspace.peak()), workspace.bytes_behind(workspace.peak()), exact_);
    multiply_ = [products](double alpha, const Matrices& a, const Matrices& b, double beta, const Matrices& c) { products(alpha, a, b, beta, c); };
    sdk::copy_to_device(&exec, p_.sigma.data(), const_cast<double*>(z_.sigma), p_.heads);
    if (course_.size() > 0) sdk::copy_to_device(&exec, course_.pieces.data(), all_pieces_, course_.size());
    if (touched_) sdk::copy_to_device(&exec, reinterpret_cast<const uint8_t*>(p_.touched.data()), touched_, p_.t_k);
  }
  void enter(int64_t window) {
    pieces_ = all_pieces_ + window * window_;
    count_ = std::min(window_, course_.size() - window * window_);
    units_.m = count_ * p_.heads;
  }

  void gather_side(const sdk::HeadRows& from, int64_t width, bool keys, float scale, float* x, float* decayed) const {
    sdk::for_each(exec_, units_.m * z_.rows * width, Gather{z_, pieces_, sdk::Rows(from), width, keys, scale, x, decayed});
  }
  void gather(const sdk::HeadRows& q, const sdk::HeadRows& k, const sdk::HeadRows& v) const {
    gather_side(q, p_.d, false, p_.scale, units_.q, units_.qd), gather_side(k, p_.d, true, 1, units_.k, units_.kd), gather_side(v, p_.e, true, 1, units_.v, units_.vd);
  }
  void advance(float* carry, const States& in, const States& out, bool keep) const {
    sdk::for_each(exec_, z_.heads * z_.d * z_.e, Advance{z_, pieces_, count_, units_.s, carry, in, out, keep});
  }

  const Problem& p_;
  Course course_;
  bool backward_, exact_, untouched_ = false;
  Sizes z_;
  Units units_;
  int64_t window_ = 1, windows_ = 0;  // chunks of a window; windows
  uint64_t product_bytes_ = 0;
  Piece *all_pieces_ = nullptr, *pieces_ = nullptr;  // of the window that is worked on
  int64_t count_ = 0;
  uint8_t* touched_ = nullptr;
  float *carry_ = nullptr, *begins_ = nullptr;
  const tn_exec* exec_ = nullptr;
  std::function<void(double, const Matrices&, const Matrices&, double, const Matrices&)> multiply_;
};

inline uint64_t forward_bytes(const Problem& p, tn_dtype dtype, const tn_device_api* api, tn_device* device) { return Pass(p, dtype, false).bytes(api, device); }
inline uint64_t backward_bytes(const Problem& p, tn_dtype dtype, const tn_device_api* api, tn_device* device) { return Pass(p, dtype, true).bytes(api, device); }
inline void run_forward(const tn_exec& exec, const Problem& p, tn_dtype dtype, const ForwardPorts& f) {
  Pass pass(p, dtype, false);
  p.is_one_token(f) ? pass.one_token(exec, f) : pass.forward(exec, f);
}
inline void run_backward(const tn_exec& exec, const Problem& p, tn_dtype dtype, const BackwardPorts& b) { Pass(p, dtype, true).backward(exec, b); }

}  // namespace tenon::lightning
