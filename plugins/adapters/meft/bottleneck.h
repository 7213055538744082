// A bottleneck A(x) = dropout(gelu(x Dᵀ + b)) Uᵀ + c without a residual, over the host's operators. Beside an MLP it reads what the MLP does,
// a norm of x, with a gain of its own.
#pragma once

#include "sdk/adapter/activation.h"
#include "sdk/adapter/bias.h"
#include "sdk/adapter/dropout.h"
#include "sdk/adapter/initial.h"
#include "sdk/adapter/region.h"
#include "sdk/adapter/side_kernels.h"

namespace tenon::meft {

using namespace tenon::sdk;

struct Bottleneck {
  uint32_t gain = 0, down = 0, down_bias = 0, up = 0, up_bias = 0;  // ids of its parameters
  int64_t width = 0;
  bool normed = false;
  Dropout dropout;

  // What backward needs beside x.
  struct Trace {
    tn_tensor *h = nullptr, *rstd = nullptr, *z = nullptr;  // norm(x), its statistic; before the activation
  };

  static Bottleneck declare(RegionDeclarer& d, int64_t hidden, int64_t width, bool normed, const Dropout& dropout, const std::string& key) {
    Bottleneck b;
    b.width = width, b.normed = normed, b.dropout = dropout;
    if (normed) b.gain = d.param({hidden, 0}, key + ".norm.weight", 0);
    b.down = d.param({width, hidden}, key + ".down.weight"), b.down_bias = d.param({width, 0}, key + ".down.bias", 0);
    b.up = d.param({hidden, width}, key + ".up.weight"), b.up_bias = d.param({hidden, 0}, key + ".up.bias", 0);
    return b;
  }

  // out = beta · out + A(x). Keeps what backward needs where trace is given.
  void forward(const Region& r, const tn_tensor& x, double beta, tn_tensor& out, Trace* trace) const {
    Trace t;
    if (normed) t.h = r.alloc(r.hidden()), t.rstd = r.norm(x, &r.value(gain), *t.h);
    t.z = r.alloc(width);
    tn_tensor* a = r.alloc(width);
    r.product(1, Matrix::of(normed ? *t.h : x), Matrix::of(r.value(down)).transposed(), 0, Matrix::of(*t.z));
    if (!r.plans()) add_bias(r.exec(), contiguous<float>(&r.value(down_bias), "a bias"), Matrix::of(*t.z));
    activate(r, *t.z, *a);
    r.product(1, Matrix::of(*a), Matrix::of(r.value(up)).transposed(), beta, Matrix::of(out));
    if (!r.plans()) add_bias(r.exec(), contiguous<float>(&r.value(up_bias), "a bias"), Matrix::of(out));
    r.free(a);
    if (trace)
      *trace = t;
    else
      r.free(t.h), r.free(t.rstd), r.free(t.z);
  }

  // dx += gradient; parameter gradients add up.
  void backward(const Region& r, const tn_tensor& x, Trace& t, const tn_tensor& dy, tn_tensor& dx) const {
    tn_tensor *a = r.alloc(width), *dz = r.alloc(width);
    activate(r, *t.z, *a);
    if (!r.plans()) add_bias_gradient(r.exec(), Matrix::of(dy), contiguous<float>(r.grad(up_bias), "a bias' gradient"));
    r.product(1, Matrix::of(dy).transposed(), Matrix::of(*a), 1, Matrix::of(*r.grad(up)));
    r.free(a);
    r.product(1, Matrix::of(dy), Matrix::of(r.value(up)), 0, Matrix::of(*dz));
    if (!r.plans()) {
      if (drops(r)) dropout.apply(r.exec(), r.rng(down), Matrix::of(*dz), Matrix::of(*dz));
      gelu_backward(r.exec(), Matrix::of(*dz), Matrix::of(*t.z), Matrix::of(*dz));
      add_bias_gradient(r.exec(), Matrix::of(*dz), contiguous<float>(r.grad(down_bias), "a bias' gradient"));
    }
    r.product(1, Matrix::of(*dz).transposed(), Matrix::of(normed ? *t.h : x), 1, Matrix::of(*r.grad(down)));
    r.free(t.z);
    if (normed) {
      r.product(1, Matrix::of(*dz), Matrix::of(r.value(down)), 0, Matrix::of(*t.h));
      r.norm_backward(*t.h, x, &r.value(gain), *t.rstd, 1, dx, r.grad(gain));
      r.free(t.h), r.free(t.rstd);
    } else {
      r.product(1, Matrix::of(*dz), Matrix::of(r.value(down)), 1, Matrix::of(dx));
    }
    r.free(dz);
  }

 private:
  bool drops(const Region& r) const { return dropout.on() && r.saves(); }
  void activate(const Region& r, const tn_tensor& z, tn_tensor& a) const {
    if (r.plans()) return;
    gelu_forward(r.exec(), Matrix::of(z), Matrix::of(a));
    if (drops(r)) dropout.apply(r.exec(), r.rng(down), Matrix::of(a), Matrix::of(a));
  }
};

}  // namespace tenon::meft
