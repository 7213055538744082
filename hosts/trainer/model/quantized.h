// A frozen weight held by a quantizer plugin.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "hosts/trainer/model/parameter.h"
#include "tenon/activation.h"
#include "tenon/calibrate.h"
#include "tenon/kv.h"

namespace tenon::trainer {

// An instance of a quantizer; shared by all weights that it holds.
struct Quantizer {
  const tn_quantizer_api* api = nullptr;
  tn_quantizer* self = nullptr;
  const tn_calibrate* calibrate = nullptr;  // where this instance wants to see text, and how much
  tn_calibration_plan calibration{};
};

// A codec of the run for another site than weights; the instance is the caller's.
struct SiteCodec {
  const tn_quantizer_api* api = nullptr;
  tn_quantizer* self = nullptr;
  const tn_activation_codec* activation = nullptr;  // org.tenon.activation/1, or null
  const tn_kv* kv = nullptr;                        // org.tenon.kv/1, or null
  std::string id;
};

class QuantizedWeight {
 public:
  // Plans and allocates the components of a [m, n] weight; contents come from encode() or from outside through components().
  QuantizedWeight(Engine& engine, const Quantizer& quantizer, std::string name, uint32_t uid, uint32_t role, int32_t block, int64_t m, int64_t n);

  int64_t m() const { return target_.shape[0]; }
  int64_t n() const { return target_.shape[1]; }
  const std::vector<Tensor>& components() const { return components_; }
  const std::vector<std::string>& component_names() const { return names_; }
  const tn_target& target() const { return target_; }
  const Quantizer& quantizer() const { return quantizer_; }

  // Which components an optimizer may move (TN_COMPONENT_TRAINABLE); component `index` is then seen through `parameter`.
  bool trainable(size_t index) const { return trainable_[index]; }
  void train(size_t index, Parameter* parameter) { parameters_[index] = parameter; }

  void encode(Engine& engine, const Tensor& source);
  // The same with the Gram matrix of the inputs; source [m, n] in f32 ends as scratch.
  void encode_calibrated(Engine& engine, const Tensor& source, const Tensor& gram, int64_t tokens);
  // out[end − begin, n] = rows [begin, end).
  void decode_rows(Engine& engine, int64_t begin, int64_t end, const Tensor& out) const;
  // y[T, m] = alpha · x W^T + beta · y; fused where the codec offers it for so many rows, else by decoded panels.
  void forward(Engine& engine, const Tensor& x, const Tensor& y, double alpha, double beta) const;
  // dx[T, n] = alpha · dy W + beta · dx.
  void backward(Engine& engine, const Tensor& dy, const Tensor& dx, double alpha, double beta) const;

 private:
  using Product = decltype(tn_quantizer_api::linear);
  // Runs the codec's own product; false: it offers none for so many rows.
  bool fused(Engine& engine, uint32_t op, Product product, const Tensor& in, const Tensor& out, double alpha, double beta) const;
  // Decodes the weight panel by panel and hands each to `use` with its rows [begin, end).
  void for_each_panel(Engine& engine, const std::function<void(int64_t begin, int64_t end, const Tensor& w)>& use) const;

  Quantizer quantizer_;
  std::string name_;
  tn_target target_{};
  std::vector<Tensor> components_;
  std::vector<Tensor> seen(Engine& engine) const;  // the components as the model sees them now
  std::vector<std::string> names_;
  std::vector<bool> trainable_;
  std::vector<Parameter*> parameters_;  // per component, or null
};

}  // namespace tenon::trainer
