// The one function of mix_flags.h that shows progress; recipes in libtenon_trainer do without it.
#include "hosts/cli/mix_flags.h"
#include "hosts/cli/progress.h"
#include "hosts/trainer/run/calibration.h"

namespace tenon::cli {

trainer::Inference open_inference(trainer::Runtime& runtime, const trainer::ModelSource& source, const po::variables_map& values, int64_t longest_sequence,
                                  bool order_segments) {
  trainer::CalibrationText text;
  if (runtime.calibrates()) text = read_calibration(runtime, value_or<std::string>(values, "calibration", ""), open_text_model(values, source));
  trainer::CalibrationText kv_text;
  if (!runtime.site_spec(TN_SITE_KV_CACHE, short_form).empty() && runtime.kv_plan().statistic != 0)
    kv_text = read_kv_calibration(runtime, value_or<std::string>(values, "calibration", ""), open_text_model(values, source));
  ProgressLine progress("calibrating");
  return {runtime, source, trainer::parse_dtype(values["dtype"].as<std::string>()), longest_sequence, memory_limit(values), text,
          [&](size_t done, size_t of) { progress.update(static_cast<double>(done) / static_cast<double>(of), ""); }, kv_text, order_segments};
}

}  // namespace tenon::cli
