// A linear layer of the model: y = x W^T + b, whose weight is dense or quantized and which adapters may wrap. Also the embedding as a place of
// adapters: y[T, n] = rows x (int32 [T]) of the dense weight [m, n].
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hosts/trainer/model/parameter.h"
#include "hosts/trainer/model/quantized.h"
#include "hosts/trainer/random.h"
#include "tenon/adapter.h"
#include "tenon/region.h"
#include "tenon/sampler.h"
#include "tenon/steps.h"

namespace tenon::trainer {

// One adapter of the run: the plugin's instance and its parameters. Several may be active; their deltas add.
struct Adapter {
  std::string name;  // "default", or the user's
  const tn_adapter_api* api = nullptr;
  tn_adapter* self = nullptr;
  uint32_t index = 0;  // among the run's adapters: separates random streams
  double scale = 1;
  std::vector<std::unique_ptr<Parameter>> parameters;     // by the plugin's param id
  std::vector<int32_t> param_sites;                       // likewise; −1 = shared by all its sites
  std::map<uint32_t, std::vector<uint32_t>> site_params;  // site id -> param ids, shared ones included, in the order declared
  std::map<uint32_t, uint32_t> retention;                 // sites taken -> TN_RETAIN_*
  std::map<uint32_t, bool> owned;                         // sites whose weight it holds -> whether it starts from the model's own
  std::vector<uint32_t> trained_roles;                    // of the model's own parameters
  const tn_sampler* sampler = nullptr;                    // it chooses the rows that survive to dYᵀ X
  const tn_adapter_steps* steps = nullptr;                // it acts between steps, and may grow its parameters
  const tn_region_api* region = nullptr;                  // it runs the stack of blocks itself
  std::map<uint32_t, uint32_t> base_site;                 // param id -> site that init_param sees, of a region's blocks
  std::map<uint32_t, const Parameter*> base_norm;         // likewise a gain, as a weight of one row
};

// Weighted rows of a linear's input that stand for all of them in dYᵀ X; index empty: all of them.
struct RowSample {
  Tensor index, rows;
};

// What one forward call of a linear leaves for its backward: the adapters' saved tensors, and a sample of its input.
struct SavedLinear {
  std::shared_ptr<const RowSample> sample;
  std::vector<std::map<uint32_t, Tensor>> slots;  // per adapter on the site
};

// How a linear is being called.
struct LinearCall {
  uint32_t flags = 0;  // TN_CALL_*
  int64_t step = 0, micro_batch = 0, row_begin = 0;
  uint64_t seed = 0;
  std::shared_ptr<std::map<const void*, std::shared_ptr<const RowSample>>> samples;  // by input, of the linears called together
  const std::vector<int64_t>* sample_begin = nullptr;  // where each sample's rows begin, and the end of the last: for per-sample gradients
  double grad_scale = 1;                          // what gradients carry beyond those of the samples' summed nats

  // The random numbers of one use of an adapter, below 2^16, in this micro-batch: the same in every call of it.
  tn_rng random(const Adapter& adapter, uint32_t use) const {
    return turn_key(seed, 0x10000u * (adapter.index + 1) + use, 0, step, micro_batch);
  }
};

class Linear {
 public:
  std::string path;  // module path, "model.layers.3.self_attn.q_proj"
  uint32_t site = 0, role = 0, uid = 0;  // uid: of the weight
  int32_t block = -1;
  int64_t m = 0, n = 0;
  Parameter* weight = nullptr;            // dense; null when quantized (but while one stands in for it), owned by an adapter, or the identity
  std::optional<QuantizedWeight> quantized;
  Parameter* bias = nullptr;
  bool tied = false, identity = false;    // identity: the output of a sub-layer, which adapters may change
  bool absent = false;                    // a mixer does without it
  bool coded = false;                     // a quantizer holds the weight, unless an adapter does
  bool lookup = false;                    // of rows of the weight by index
  const Adapter* owner = nullptr;         // holds the weight
  std::vector<Adapter*> adapters;  // that took this site

  bool trains_weight() const { return weight && weight->trainable; }
  bool trains_components() const { return quantized && !weight && quantized->trains(); }
  // The adapter that samples the rows of x, or null.
  const Adapter* sampler() const;
  // Whether backward needs x: for dW, or because an adapter asked to retain it; a sample of its rows stands in for both.
  bool needs_input() const;
  bool trains() const;

  // y[T, m] ([T, n] of a lookup); saved is filled when call.flags has TN_CALL_SAVE. An empty y: only what backward needs is computed.
  void forward(Engine& engine, const LinearCall& call, const Tensor& x, const Tensor& y, SavedLinear* saved) const;
  // forward() of several linears with one input: in one call where a codec holds all of their weights and nothing wraps them.
  static void forward_all(Engine& engine, const LinearCall& call, const std::vector<const Linear*>& linears, const Tensor& x, const std::vector<Tensor>& y,
                          const std::vector<SavedLinear*>& saved);
  // y += x W^T, of a linear without adapters.
  void accumulate(Engine& engine, const Tensor& x, const Tensor& y) const { base_forward(engine, x, 1, 1, y); }
  // dx[T, n] = gradient + beta · dx, where dx is wanted (never of a lookup); x is the forward's input (may be empty unless needs_input()).
  void backward(Engine& engine, const LinearCall& call, const Tensor& dy, const Tensor& x, const Tensor* dx, double beta,
                SavedLinear* saved) const;
  // Calls `use` with the weight as an operator, without any adapter. instead: the dense weight [m, n] of a site whose own is not held.
  void with_base(Engine& engine, const Tensor& instead, const std::function<void(const tn_base_linear*)>& use) const;
  uint32_t flags() const;  // TN_LINEAR_*
  uint32_t place() const { return identity ? TN_PLACE_SUBLAYER : lookup ? TN_PLACE_LOOKUP : TN_PLACE_LINEAR; }
  // out[end − begin, n] = rows of the frozen weight, in out's dtype.
  void read_rows(Engine& engine, int64_t begin, int64_t end, const Tensor& out) const;

 private:
  struct Operator;
  void sample(Engine& engine, const LinearCall& call, const Tensor& x, SavedLinear& saved) const;
  const Tensor& dense() const { return instead_ ? *instead_ : weight->value; }
  void base_forward(Engine& engine, const Tensor& x, double alpha, double beta, const Tensor& y) const;
  void decode_found(Engine& engine, const Tensor& x, const Tensor& y) const;
  void look_up(Engine& engine, const Tensor& x, double alpha, double beta, const Tensor& y) const;
  // By panels of rows that are displaced just before they are multiplied.
  void displaced_forward(Engine& engine, const Tensor& x, double alpha, double beta, const Tensor& y) const;
  void weight_gradient(Engine& engine, const LinearCall& call, const Tensor& dy, const Tensor& x, const SavedLinear* saved) const;
  void base_backward(Engine& engine, const Tensor& dy, double alpha, double beta, const Tensor& dx) const;
  void forward_through(Engine& engine, const LinearCall& call, size_t adapters_left, const Tensor& x, const Tensor& y, SavedLinear* saved) const;
  void backward_through(Engine& engine, const LinearCall& call, size_t adapters_left, const Tensor& dy, const Tensor& x, const Tensor* dx,
                        double beta, SavedLinear* saved) const;
  const Tensor* instead_ = nullptr;  // while with_base() shows another weight
};

}  // namespace tenon::trainer
