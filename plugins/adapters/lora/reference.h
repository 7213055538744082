// LoRA on one linear in double, with the paper's names: the oracle of the tests. Matrices are row-major vectors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tenon::reference {

using Values = std::vector<double>;

// c[m, n] += alpha · op(a) op(b), k inner. ta: a is stored [k, m]; tb: b is stored [n, k].
inline void accumulate(Values& c, const Values& a, const Values& b, int64_t m, int64_t n, int64_t k, bool ta, bool tb,
                       double alpha) {
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j)
      for (int64_t p = 0; p < k; ++p)
        c[i * n + j] += alpha * (ta ? a[p * m + i] : a[i * k + p]) * (tb ? b[j * k + p] : b[p * n + j]);
}

struct Lora {
  int64_t m, n, T, r;
  double s = 1;          // alpha / r
  Values W, A, B, bias;  // [m, n], [r, n], [m, r], and [m] or empty
  Values keep;           // [T, n]: 0 or 1/(1 − p); empty: no dropout

  Values dropped(Values x) const {
    for (std::size_t i = 0; i < keep.size(); ++i) x[i] *= keep[i];
    return x;
  }
  // Y = X Wᵀ + s · dropout(X) Aᵀ Bᵀ (+ s · b)
  Values forward(const Values& X) const {
    Values U(T * r), Y(T * m);
    accumulate(U, dropped(X), A, T, r, n, false, true, 1);
    accumulate(Y, X, W, T, m, n, false, true, 1);
    accumulate(Y, U, B, T, m, r, false, true, s);
    for (std::size_t i = 0; i < Y.size() && !bias.empty(); ++i) Y[i] += s * bias[i % m];
    return Y;
  }

  struct Gradients {
    Values dX, dA, dB, db;
  };
  Gradients backward(const Values& X, const Values& dY) const {
    Gradients g{Values(T * n), Values(r * n), Values(m * r), Values(m)};
    const Values Xd = dropped(X);
    Values U(T * r), dU(T * r), dXd(T * n);
    accumulate(U, Xd, A, T, r, n, false, true, 1);
    accumulate(dU, dY, B, T, r, m, false, false, s);
    accumulate(g.dB, dY, U, m, r, T, true, false, s);
    accumulate(g.dA, dU, Xd, r, n, T, true, false, 1);
    accumulate(dXd, dU, A, T, n, r, false, false, 1);
    accumulate(g.dX, dY, W, T, n, m, false, false, 1);
    dXd = dropped(dXd);
    for (std::size_t i = 0; i < dXd.size(); ++i) g.dX[i] += dXd[i];
    for (std::size_t i = 0; i < dY.size(); ++i) g.db[i % m] += s * dY[i];
    return g;
  }
};

}  // namespace tenon::reference
