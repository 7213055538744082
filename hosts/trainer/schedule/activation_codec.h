// A quantizer on the way of saved activations: their large tensors go on in its form.
#pragma once

#include <map>
#include <string>

#include "hosts/trainer/model/config.h"
#include "hosts/trainer/model/quantized.h"
#include "hosts/trainer/schedule/activations.h"

namespace tenon::trainer {

class ActivationCodec : public ActivationStage {
 public:
  // Allocates the statistics of every slot of a model. seed: of the run. next: takes what the codec makes; null: it stays.
  ActivationCodec(Engine& engine, const SiteCodec& codec, const ModelConfig& config, uint64_t seed, ActivationStage* next);

  std::unique_ptr<Stowed> stow(const SavedTag& tag, Tensor tensor) override;
  uint64_t peak_bytes() const override { return next_ ? next_->peak_bytes() : 0; }

  // What the codec keeps between calls, by its key in checkpoints.
  const std::map<std::string, Tensor>& statistics() const { return named_; }

 private:
  struct Coded;
  bool save(const tn_activation& what, const Tensor& x, const std::vector<Tensor>& token, const tn_rng& rng);
  void restore(const tn_activation& what, const std::vector<Tensor>& token, const Tensor& x) const;

  Engine& engine_;
  SiteCodec codec_;
  uint64_t seed_;
  ActivationStage* next_;
  std::map<uint32_t, std::vector<Tensor>> statistics_;  // by slot
  std::map<std::string, Tensor> named_;
};

}  // namespace tenon::trainer
