// Text with which a quantizer that asks for it (org.tenon.calibrate/1, org.tenon.trainable/1) makes the weights.
#pragma once

#include <string>
#include <vector>

#include "hosts/trainer/model/source.h"
#include "hosts/trainer/run/session.h"
#include "hosts/trainer/text/text_model.h"

namespace tenon::trainer {

class Runtime;

// Token ids, sequences of one length.
using CalibrationText = std::vector<std::vector<int32_t>>;

// What the run's quantizer asks for, cut from the file: as many sequences as it has, evenly spread where it has more. Empty where the
// quantizer asks for nothing; Error where it does and `path` is "".
CalibrationText read_calibration(const Runtime& runtime, const std::string& path, const TextModel& text);
// The same for a codec of key-value caches (--kv-cache) that asks for text; empty where none does.
CalibrationText read_kv_calibration(const Runtime& runtime, const std::string& path, const TextModel& text);

// Codes every quantized weight of the model, in order. An empty text stands, on a dry engine, for all that the quantizer asks for.
void calibrate(Engine& engine, Model& model, const ModelSource& source, const Techniques& techniques, uint64_t seed, const CalibrationText& text,
               const std::function<void(size_t, size_t)>& progress);

}  // namespace tenon::trainer
