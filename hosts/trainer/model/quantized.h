// A frozen weight held by a quantizer plugin.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "hosts/trainer/model/parameter.h"
#include "tenon/activation.h"
#include "tenon/calibrate.h"
#include "tenon/kv.h"
#include "tenon/linears.h"
#include "tenon/segments.h"
#include "tenon/trainable.h"

namespace tenon::trainer {

// An instance of a quantizer; shared by all weights that it holds.
struct Quantizer {
  const tn_quantizer_api* api = nullptr;
  tn_quantizer* self = nullptr;
  const tn_linears* linears = nullptr;      // org.tenon.linears/1, or null
  const tn_calibrate* calibrate = nullptr;  // where this instance wants to see text, and how much
  tn_calibration_plan calibration{};
  const tn_trainable* trainable = nullptr;  // where components may be trained, and weights before they are coded
  tn_training_plan training{};              // sequences 0: weights are not
  // Text that the instance asks for; 0 sequences: none.
  int64_t text_sequences() const { return calibrate ? calibration.sequences : trainable ? training.sequences : 0; }
  int64_t text_length() const { return calibrate ? calibration.length : training.length; }
  const tn_segmented* segments = nullptr;  // where weights come in segments
  tn_segment_plan segment_plan{};
};

// A component as the codec plans it.
struct PlannedComponent {
  std::string name;
  tn_dtype dtype{};
  int ndim = 0;
  int64_t shape[4] = {};
  bool trainable = false, segmented = false;
  int64_t bytes() const;  // of all segments
};
std::vector<PlannedComponent> plan_components(const Quantizer& quantizer, const tn_target& target);

// How a weight's bytes fall into segments; a weight without has one.
struct SegmentSizes {
  int64_t count = 1;
  uint64_t fixed = 0, each = 0;  // bytes that any number of segments needs, and of one segment
  SegmentSizes() = default;
  explicit SegmentSizes(const std::vector<PlannedComponent>& planned);
  uint64_t bytes(int64_t segments) const { return fixed + each * static_cast<uint64_t>(segments); }
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
  // segments: how many of its segments; 0: all.
  QuantizedWeight(Engine& engine, const Quantizer& quantizer, std::string name, uint32_t uid, uint32_t role, int32_t block, int64_t m, int64_t n,
                  int64_t segments = 0);

  int64_t m() const { return target_.shape[0]; }
  int64_t n() const { return target_.shape[1]; }
  const std::vector<Tensor>& components() const { return components_; }
  const std::vector<std::string>& component_names() const { return names_; }
  const tn_target& target() const { return target_; }
  const Quantizer& quantizer() const { return quantizer_; }

  bool segmented(size_t index) const { return segmented_[index]; }
  const SegmentSizes& segments() const { return sizes_; }  // those that are there
  // What the model sees from now on, of those that are there.
  void show_segments(int64_t count) { shown_ = count; }
  // Keeps the first `count` in memory at `offset` of the arena, which grows by them.
  void keep_segments(Engine& engine, int64_t count, const Tensor& arena, int64_t& offset);
  static constexpr int64_t kPlaces = 64;  // bytes: components in an arena begin at multiples of this

  // Which components an optimizer may move (TN_COMPONENT_TRAINABLE); component `index` is then seen through `parameter`.
  bool trainable(size_t index) const { return trainable_[index]; }
  void train(size_t index, Parameter* parameter) { parameters_[index] = parameter; }
  // Whether the gradient of the loss reaches a component (org.tenon.trainable/1); then it is added from x[T, n] and dy[T, m].
  bool trains() const;
  void component_gradient(Engine& engine, const Tensor& x, const Tensor& dy) const;
  void announce(const GradientReady& ready) const {
    for (Parameter* p : parameters_)
      if (p && p->trainable) ready(*p);
  }

  void encode(Engine& engine, const Tensor& source);
  // The same with the statistic of the inputs that the quantizer asks for; source [m, n] in f32 ends as scratch.
  void encode_calibrated(Engine& engine, const Tensor& source, const Tensor& statistic, int64_t tokens);
  // out[end − begin, n] = rows [begin, end).
  void decode_rows(Engine& engine, int64_t begin, int64_t end, const Tensor& out) const;
  // out[rows, n] = the row of each number in `rows`, which all are below m.
  void decode_found(Engine& engine, const std::vector<int32_t>& rows, const Tensor& out) const;
  // y[T, m] = alpha · x W^T + beta · y; fused where the codec offers it for so many rows, else by decoded panels.
  void forward(Engine& engine, const Tensor& x, const Tensor& y, double alpha, double beta) const;
  // y[i] = x W_iᵀ of several weights in one call of their codec; false: it takes them one by one, or they are not all of one.
  static bool forward_together(Engine& engine, const std::vector<const QuantizedWeight*>& weights, const Tensor& x, const std::vector<Tensor>& y);
  // dx[T, n] = alpha · dy W + beta · dx.
  void backward(Engine& engine, const Tensor& dy, const Tensor& dx, double alpha, double beta) const;

 private:
  using Product = decltype(tn_quantizer_api::linear);
  // Runs the codec's own product; false: it offers none for so many rows.
  bool fused(Engine& engine, uint32_t op, Product product, const Tensor& in, const Tensor& out, double alpha, double beta) const;
  // Decodes the weight panel by panel and hands each to `use` with its rows [begin, end).
  void for_each_panel(Engine& engine, const std::function<void(int64_t begin, int64_t end, const Tensor& w)>& use) const;

  Quantizer quantizer_;
  std::shared_ptr<const std::string> name_;  // where the target's name points to, also in copies
  tn_target target_{};
  std::vector<Tensor> components_;
  std::vector<Tensor> seen(Engine& engine) const;  // the components as the model sees them now
  std::vector<std::string> names_;
  std::vector<bool> trainable_, segmented_;
  SegmentSizes sizes_;
  int64_t shown_ = 0;  // 0: all
  std::vector<Parameter*> parameters_;  // per component, or null
};

}  // namespace tenon::trainer
