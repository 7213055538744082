// One attention problem: the plugin's answer, with every buffer fenced, and the dense f64 answer to the same inputs.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "hosts/conformance/numbers.h"
#include "hosts/conformance/subject.h"
#include "sdk/attention/reference.h"
#include "sdk/dtype.h"
#include "tenon/attention_form.h"

namespace tenon::conformance {

inline tn_mask_term causal_mask() {
  return {TN_SIZE_TO(tn_mask_term, blocks), TN_MASK_CAUSAL, 0, 0, 0, nullptr};
}
inline tn_mask_term window_mask(int64_t left, int64_t right) {
  return {TN_SIZE_TO(tn_mask_term, blocks), TN_MASK_WINDOW, left, right, 0, nullptr};
}
inline tn_mask_term sink_mask(int64_t n) {
  return {TN_SIZE_TO(tn_mask_term, blocks), TN_MASK_SINK, 0, 0, n, nullptr};
}

struct AttentionCase {
  const char* name = "";
  int64_t batch = 2, t_q = 33, t_k = 33, heads = 6, kv_heads = 2, d = 16, e = 16;
  std::vector<tn_mask_term> mask = {causal_mask()};
  std::vector<sdk::Segment> segments{};
  int64_t q_pos = 0, k_pos = 0;
  double softcap = 0, dropout = 0;
  tn_dtype dtype = sdk::kF32;
  uint32_t phase = TN_PHASE_TRAIN, flags = 0;
  float amplitude = 1;
  bool wide_rows = false;  // q, k and v as views with gaps between their rows
  bool longer = false;
  uint8_t poison = 0xFF;
  int64_t state_tokens = 0;  // of the decode state that the call has
};

class AttentionRun {
 public:
  // Throws NotApplicable where create or plan refuse in words.
  AttentionRun(Subject& subject, const Spec& spec, const AttentionCase& c);

  void forward();
  // False where the plugin refuses in words.
  bool try_forward();
  // A decode state for the calls to come: u8 [1, n].
  void bind_state(uint32_t port, std::shared_ptr<Tensor> state);
  // accumulate: dq, dk and dv are added to.
  void backward(bool accumulate = false);
  Tensor& at(uint32_t port) { return *tensors_.at(port); }
  std::vector<float> values(uint32_t port);
  void set(uint32_t port, const std::vector<float>& values);

  sdk::DenseAttention dense();
  const tn_attention_plan& plan() const { return plan_.value; }
  const tn_attention_api& api() const { return api_; }
  tn_attention* self() const { return instance_->get(); }
  const tn_attention_shape& shape();

 private:
  void add(uint32_t port, const char* name, tn_dtype dtype, std::vector<int64_t> shape, bool wide, float scale);
  int32_t call(bool backward, bool accumulate);

  AttentionCase c_;
  Bench& bench_;
  const LoadedPlugin& plugin_;
  const tn_attention_form* form_ = nullptr;
  const tn_attention_api& api_;
  std::unique_ptr<Instance<tn_attention_api, tn_attention>> instance_;
  std::map<uint32_t, std::shared_ptr<Tensor>> tensors_;
  std::map<uint32_t, tn_tensor> views_;
  std::map<uint32_t, std::vector<int64_t>> shapes_, strides_;
  Longer<tn_attention_shape> shape_;
  Longer<tn_attention_plan> plan_;
  std::vector<const tn_mask_term*> terms_;
  std::vector<int64_t> columns_[6];
  tn_segments segments_{};
};

}  // namespace tenon::conformance
