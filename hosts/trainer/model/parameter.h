// A named weight of the model or of an adapter, with what training hangs on it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "hosts/trainer/model/displacer.h"
#include "tenon/linear_wgrad.h"

namespace tenon::trainer {

// The optimizer that computes a weight gradient itself.
struct OwnWgrad {
  const tn_linear_wgrad* api = nullptr;
  tn_optimizer* self = nullptr;
};

struct Parameter {
  std::string name;  // as in the Hugging Face checkpoint, or the adapter's file key
  uint32_t uid = 0;  // stable across runs
  uint32_t role = TN_ROLE_OTHER;
  int32_t block = -1, in_axis = -1;
  int32_t n_heads = 0, n_kv_heads = 0;
  Tensor value;
  bool trainable = false;
  bool saved = true;  // part of checkpoints and of written models and adapters; false: a buffer that is made again
  bool converted = false;  // a mixer's: where the model's files lack it, it starts from the model's other weights
  double lr_scale = 1, decay_scale = 1;

  Category gradient_category = Category::kGradients;
  tn_dtype gradient_dtype = kF32;
  Tensor gradient;             // empty until the first contribution of a step
  Tensor host_value, host_gradient;  // where updates run on the host (host_updates.h): its copies; else empty
  Tensor master;               // f32, when the run keeps masters
  std::vector<Tensor> states;  // the optimizer's, in its order
  std::vector<std::string> state_names;
  int64_t updates = 0;

  const Displacer* displaced = nullptr;  // while a probe runs
  // Of a linear's weight: what the optimizer's plan asked for in this step beside a gradient.
  bool tapped = false;              // means of inputs and output gradients (org.tenon.observe/1)
  const OwnWgrad* wgrad = nullptr;  // the plugin's own product (org.tenon.linear-wgrad/1)
  Tensor tap_x, tap_dy;             // f32 sums of rows so far in this step
  int64_t tap_rows = 0;

  // The value as the model sees it now: itself, or a displaced copy in workspace.
  Tensor seen(Engine& engine) const;

  // What an update reads and writes.
  const Tensor& updated_value() const { return host_value ? host_value : value; }
  const Tensor& updated_gradient() const { return host_value ? host_gradient : gradient; }
  void drop_gradient() { gradient = host_gradient = tap_x = tap_dy = Tensor(), tap_rows = 0; }

  // The gradient's buffer and the beta with which to add to it: 0 for the first contribution of a step, which allocates.
  double open_gradient(Engine& engine);
  // The same for operators that can only add: a fresh buffer starts as zeros.
  const Tensor& open_zeroed_gradient(Engine& engine);
};

// Called when the last contribution to a parameter's gradient in this step is in: the moment of an update inside backward.
using GradientReady = std::function<void(Parameter&)>;

}  // namespace tenon::trainer
