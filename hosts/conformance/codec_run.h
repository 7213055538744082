// A quantizer with one target, driven as a host drives it, with every buffer fenced.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "hosts/conformance/numbers.h"
#include "hosts/conformance/subject.h"

namespace tenon::conformance {

// The named components of one coded tensor.
struct Coded {
  std::vector<std::string> names;
  std::vector<uint32_t> flags;  // TN_COMPONENT_*
  std::vector<std::unique_ptr<Tensor>> parts;

  std::vector<tn_tensor*> pointers() const;
  std::vector<std::vector<uint8_t>> bits() const;
  uint64_t bytes() const;
  void seal();
};

class CodecRun {
 public:
  // site: where the target is used; 0: the first that the codec serves. Throws NotApplicable where the plugin refuses
  // the setting in words.
  CodecRun(Subject& subject, const Spec& spec, const std::vector<int64_t>& shape, bool longer = false,
           uint32_t site = 0);

  // The same instance with a target of another shape.
  void reshape(const std::vector<int64_t>& shape);

  // Empty components as the codec plans them; throws NotApplicable where it refuses this target.
  Coded plan();
  // The status of the encode; components in `out`. Throws NotApplicable where plan or estimate refuse.
  int32_t try_encode(const std::vector<float>& values, Coded& out, tn_dtype dtype = {TN_FLOAT, 32, 1},
                     uint8_t poison = 0xFF);
  // The same, where an encode must not fail.
  Coded encode(const std::vector<float>& values, tn_dtype dtype = {TN_FLOAT, 32, 1}, uint8_t poison = 0xFF);
  std::vector<float> decode(const Coded& coded, int64_t begin, int64_t end, tn_dtype dtype = {TN_FLOAT, 32, 1},
                            uint8_t poison = 0xFF);
  std::vector<float> decode(const Coded& coded) { return decode(coded, 0, count()); }

  // y = alpha · x W^T + beta · y (or its backward) through the fused product; false where none is offered for so many
  // rows.
  bool linear(const Coded& coded, bool backward, int64_t rows, const std::vector<float>& x, double alpha, double beta,
              tn_dtype dtype, std::vector<float>& y);

  tn_estimate estimate(uint32_t op, int64_t rows);
  int64_t count() const { return count_; }
  const tn_quantizer_api& api() const { return api_; }
  tn_quantizer* self() const { return instance_->get(); }
  const tn_target* target() const { return &target_.value; }
  Bench& bench() { return bench_; }

 private:
  int32_t ask(uint32_t op, int64_t rows, tn_estimate& out);

  Bench& bench_;
  const tn_quantizer_api& api_;
  std::unique_ptr<Instance<tn_quantizer_api, tn_quantizer>> instance_;
  Longer<tn_target> target_;
  bool longer_;
  int64_t count_ = 1;
};

}  // namespace tenon::conformance
