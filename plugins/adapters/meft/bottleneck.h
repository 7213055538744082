// A bottleneck A(x) = gelu(x Dᵀ + b) Uᵀ + c without a residual, over the host's operators.
#pragma once

#include "sdk/adapter/activation.h"
#include "sdk/adapter/initial.h"
#include "sdk/adapter/region.h"
#include "sdk/adapter/side_kernels.h"

namespace tenon::meft {

using namespace tenon::sdk;

struct Bottleneck {
  uint32_t down = 0, down_bias = 0, up = 0, up_bias = 0;  // ids of its parameters
  int64_t width = 0;

  struct Trace {
    tn_tensor* z = nullptr;  // before the activation
  };

  static Bottleneck declare(RegionDeclarer& d, int64_t hidden, int64_t width, const std::string& key) {
    Bottleneck b;
    b.width = width;
    b.down = d.param({width, hidden}, key + ".down.weight"), b.down_bias = d.param({width, 0}, key + ".down.bias", 0);
    b.up = d.param({hidden, width}, key + ".up.weight"), b.up_bias = d.param({hidden, 0}, key + ".up.bias", 0);
    return b;
  }

  // out = A(x), or out += A(x). Keeps what backward needs where trace is given.
  void forward(const Region& r, const tn_tensor& x, double beta, tn_tensor& out, Trace* trace) const {
    tn_tensor *z = r.alloc(width), *a = r.alloc(width);
    r.product(1, Matrix::of(x), Matrix::of(r.value(down)).transposed(), 0, Matrix::of(*z));
    if (!r.plans()) {
      side::add_bias(r.exec(), contiguous<float>(&r.value(down_bias), "a bias"), Matrix::of(*z));
      gelu_forward(r.exec(), Matrix::of(*z), Matrix::of(*a));
    }
    r.product(1, Matrix::of(*a), Matrix::of(r.value(up)).transposed(), beta, Matrix::of(out));
    if (!r.plans()) side::add_bias(r.exec(), contiguous<float>(&r.value(up_bias), "a bias"), Matrix::of(out));
    r.free(a);
    if (trace)
      trace->z = z;
    else
      r.free(z);
  }

  // dx += gradient; parameter gradients add up.
  void backward(const Region& r, const tn_tensor& x, Trace& trace, const tn_tensor& dy, tn_tensor& dx) const {
    tn_tensor *a = r.alloc(width), *dz = r.alloc(width);
    if (!r.plans()) {
      gelu_forward(r.exec(), Matrix::of(*trace.z), Matrix::of(*a));
      side::bias_gradient(r.exec(), Matrix::of(dy), contiguous<float>(r.grad(up_bias), "a bias' gradient"));
    }
    r.product(1, Matrix::of(dy).transposed(), Matrix::of(*a), 1, Matrix::of(*r.grad(up)));
    r.product(1, Matrix::of(dy), Matrix::of(r.value(up)), 0, Matrix::of(*dz));
    if (!r.plans()) {
      gelu_backward(r.exec(), Matrix::of(*dz), Matrix::of(*trace.z), Matrix::of(*dz));
      side::bias_gradient(r.exec(), Matrix::of(*dz), contiguous<float>(r.grad(down_bias), "a bias' gradient"));
    }
    r.product(1, Matrix::of(*dz).transposed(), Matrix::of(x), 1, Matrix::of(*r.grad(down)));
    r.product(1, Matrix::of(*dz), Matrix::of(r.value(down)), 1, Matrix::of(dx));
    r.free(a), r.free(dz), r.free(trace.z);
  }
};

}  // namespace tenon::meft
