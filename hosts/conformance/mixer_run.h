// A mixer that owns its projections, on one small layer, driven as a host drives it, with every buffer fenced.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "hosts/conformance/numbers.h"
#include "hosts/conformance/pass.h"
#include "hosts/conformance/subject.h"
#include "tenon/mixer.h"

namespace tenon::conformance {

class MixerRun {
 public:
  static constexpr int64_t kHidden = 64, kHeads = 4, kKvHeads = 2, kWidth = 16;

  struct Rows {
    int64_t sequences = 1, length = 1;
    std::vector<std::pair<int64_t, int64_t>> documents{};  // begin, length; empty: one a sequence
    uint8_t poison = 0xFF;                                 // what tensors of the pass hold before
    int64_t count() const { return sequences * length; }
  };

  // Throws NotApplicable for core kernels, and where the plugin refuses the setting.
  MixerRun(Subject& subject, const Spec& spec);

  std::vector<float> forward(const Rows& rows, const std::vector<float>& x, bool save = true);
  // dx; gradients of the parameters add up.
  std::vector<float> backward(const Rows& rows, const std::vector<float>& x, const std::vector<float>& dy);
  // Sizes of what forward and backward allocate, in order; planned: on tensors without memory.
  std::vector<uint64_t> allocations(const Rows& rows, bool planned);
  // y of x fed in pieces of these lengths.
  std::vector<float> decode(const std::vector<float>& x, const std::vector<int64_t>& pieces);

  Parameters& parameters() { return parameters_; }

 private:
  struct Table;
  void run(const Rows& rows, uint32_t flags, Tensor* state, int64_t past, const std::string& doing, const std::function<int32_t(const tn_mixer_ops*)>& body);
  int32_t lend(Loans& from, int32_t ndim, const int64_t* shape, const tn_dtype* dtype, tn_tensor** out);

  Bench& bench_;
  const tn_attention_api& api_;
  const tn_mixer_api* mixer_;
  std::unique_ptr<Instance<tn_attention_api, tn_attention>> instance_;
  std::map<uint32_t, std::unique_ptr<Tensor>> weights_;  // of q, k, v, o
  std::vector<uint32_t> kept_;
  Parameters parameters_{bench_};
  std::vector<std::pair<tn_attention_config, int64_t>> cores_;  // and their windows
  std::vector<uint64_t> sizes_;
  Loans lent_, saved_;
  std::map<uint32_t, tn_saved> slots_;
  Rows rows_;
  bool planned_ = false, decoding_ = false, starting_ = false;
  std::string fault_;
};

}  // namespace tenon::conformance
