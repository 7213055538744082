// An adapter that runs the stack of blocks itself, on a small stack, driven as a host drives it, with every buffer fenced.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "hosts/conformance/numbers.h"
#include "hosts/conformance/pass.h"
#include "hosts/conformance/subject.h"
#include "tenon/region.h"

namespace tenon::conformance {

// A half of a block of the model is y = x + tanh(x W) / 2; a block that the adapter adds is y = x + tanh(x Qᵀ) Oᵀ with Q and O of its q and o. All in f64
// on the host.
class RegionRun {
 public:
  static constexpr int64_t kBlocks = 3, kHidden = 64, kMlp = 96, kHeads = 4, kKvHeads = 2, kWidth = 16, kVocab = 50;

  struct Pass {
    int64_t rows = 7;
    uint32_t stream = 1;    // of its random numbers
    uint8_t poison = 0xFF;  // what tensors of the pass hold before
    bool longer = false;    // as a newer host passes it
  };

  // Throws NotApplicable for other adapters, and where the plugin refuses the setting.
  RegionRun(Subject& subject, const Spec& spec);

  std::vector<float> forward(const Pass& pass, const std::vector<float>& x, bool save = true);
  // dx, empty where it is not wanted or the plugin gives none; gradients of the parameters add up.
  std::vector<float> backward(const Pass& pass, const std::vector<float>& dy, bool wanted);
  // Sizes of what a pass allocates, in order; planned: on tensors without memory. trains: forward and backward.
  std::vector<uint64_t> allocations(const Pass& pass, bool trains, bool planned);
  // Whether a gradient of the input is to be had.
  bool gives_dx();
  void clear_gradients();

  Parameters& parameters() { return parameters_; }

 private:
  struct Table;
  struct Kept {
    uint32_t block, part;
    std::vector<double> x;
    const tn_tensor* tensor;  // which must go on holding x
  };
  // The weight of the model that init_param of a side block's parameter sees; slot below 0: a gain.
  struct Original {
    int32_t block, slot;
  };
  struct Side {
    uint32_t q, o;  // params
    int64_t hidden;
  };
  int32_t run(const Pass& pass, uint32_t flags, const std::string& doing, const std::function<int32_t(const tn_region_ops*)>& body);
  int32_t lend(int32_t ndim, const int64_t* shape, const tn_dtype* dtype, tn_tensor** out);
  void start();
  int32_t back(const Pass& pass, tn_tensor* dy, tn_tensor* dx, uint32_t flags);

  Bench& bench_;
  const tn_adapter_api& api_;
  const tn_region_api* region_;
  std::unique_ptr<Instance<tn_adapter_api, tn_adapter>> instance_;
  std::vector<std::unique_ptr<Tensor>> weights_;  // 7 a block, then the embedding
  std::vector<std::vector<double>> halves_;       // what the model's blocks compute with
  Parameters parameters_{bench_};
  std::map<uint32_t, Original> originals_;  // of parameters of side blocks, by id
  std::vector<Side> sides_;
  Loans lent_;
  std::map<uint64_t, Kept> kept_;
  std::vector<uint64_t> sizes_;
  uint64_t next_ = 0;
  uint32_t flags_ = 0;
  int64_t rows_ = 0;
  uint8_t poison_ = 0xFF;
  bool starting_ = false;
  std::string fault_;
};

}  // namespace tenon::conformance
