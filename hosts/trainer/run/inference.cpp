#include "hosts/trainer/run/inference.h"

#include "hosts/trainer/run/export.h"

namespace tenon::trainer {

Inference::Inference(Runtime& runtime, const ModelSource& source, tn_dtype dtype, int64_t longest_sequence, uint64_t memory_limit,
                     const CalibrationText& calibration, const std::function<void(size_t, size_t)>& calibrating, const CalibrationText& kv_calibration,
                     bool order_segments)
    : engine_(runtime.engine(dtype, memory_limit, false)), set_(runtime.instantiate()) {
  SessionOptions options;
  options.sequence = longest_sequence, options.storage = dtype, options.train = false;
  options.calibration = calibration, options.calibrating = calibrating, options.kv_calibration = kv_calibration, options.order_segments = order_segments;
  session_ = std::make_unique<Session>(*engine_, source, set_->techniques, options);
  for (Adapter* a : set_->techniques.adapters)
    if (const std::string folder = runtime.adapter_folder(a->index); !folder.empty()) read_adapter(*session_, *a, folder);
}

}  // namespace tenon::trainer
