#include "hosts/trainer/run/calibration.h"

#include <algorithm>

#include "core/error.h"
#include "hosts/trainer/run/runtime.h"
#include "hosts/trainer/text/data/documents.h"

namespace tenon::trainer {

namespace {

// `n` sequences of `length` tokens from a text, spread over it; fewer and shorter ones where it is short.
CalibrationText read_sequences(const std::string& path, int64_t n_wanted, int64_t longest, const TextModel& text) {
  const Documents documents = read_documents(path, text);
  const size_t wanted = static_cast<size_t>(n_wanted), tokens = documents.tokens.size();
  const size_t length = std::min(static_cast<size_t>(longest), tokens);
  if (length < 2) throw Error(TN_E_ARGUMENT, "--calibration " + path + " has " + std::to_string(tokens) + " tokens; give a text of some thousands");
  const size_t there = tokens / length, n = std::min(wanted, there);
  CalibrationText out;
  for (size_t i = 0; i < n; ++i) {
    const auto begin = documents.tokens.begin() + static_cast<std::ptrdiff_t>(i * there / n * length);
    out.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(length));
  }
  return out;
}

}  // namespace

CalibrationText read_calibration(const Runtime& runtime, const std::string& path, const TextModel& text) {
  const auto set = runtime.instantiate();
  const Quantizer* quantizer = set->techniques.quantizer;
  if (const Editor* editor = set->techniques.editor) {
    if (editor->text.sequences == 0) return {};
    if (path.empty()) throw Error(TN_E_ARGUMENT, "--quantizer " + editor->name + " edits the model with text in view; give it some with --calibration FILE");
    return read_sequences(path, editor->text.sequences, editor->text.length, text);
  }
  if (!quantizer || quantizer->text_sequences() == 0) return {};
  const std::string name = runtime.short_spec(TN_KIND_QUANTIZER);
  if (path.empty())
    throw Error(TN_E_ARGUMENT, "--quantizer " + name + " codes weights with text in view; give it some with --calibration FILE");
  return read_sequences(path, quantizer->text_sequences(), quantizer->text_length(), text);
}

CalibrationText read_kv_calibration(const Runtime& runtime, const std::string& path, const TextModel& text) {
  const tn_kv_plan plan = runtime.kv_plan();
  if (plan.statistic == 0) return {};
  if (path.empty())
    throw Error(TN_E_ARGUMENT, "--kv-cache " + runtime.site_spec(TN_SITE_KV_CACHE, short_form) + " is fitted to the inputs that text gives; give it some with --calibration FILE");
  return read_sequences(path, plan.sequences, plan.length, text);
}

void calibrate(Engine& engine, Model& model, const ModelSource& source, const Techniques& techniques, uint64_t seed, const CalibrationText& text,
               const std::function<void(size_t, size_t)>& progress) {
  const Quantizer& quantizer = *techniques.quantizer;
  CalibrationText all;
  if (text.empty() && engine.dry()) all.assign(static_cast<size_t>(quantizer.text_sequences()), std::vector<int32_t>(static_cast<size_t>(quantizer.text_length())));
  const CalibrationText& sequences = all.empty() ? text : all;
  if (sequences.empty())
    throw Error(TN_E_ARGUMENT, "the quantizer codes weights with text in view; give it some with --calibration FILE");
  BlockCoder coder;
  coder.dense = [&](const Linear& linear) { return source.dense_weight(engine, linear, techniques.decoder, seed); };
  BlockTraining training(engine, quantizer, techniques.block_optimizer, coder.dense, seed);
  if (quantizer.calibrate) {
    coder.statistic = quantizer.calibration.statistic;
    coder.plain_prefix = quantizer.calibration.prefix == TN_PREFIX_PLAIN;
    coder.code = [&](Linear& linear, const Tensor& statistic, int64_t tokens) {
      linear.quantized->encode_calibrated(engine, coder.dense(linear), statistic, tokens);
    };
  } else {
    coder.train = [&](TransformerBlock& block, const Pass& pass, std::vector<Tensor>& plain, std::vector<Tensor>& coded) {
      training.run(block, pass, plain, coded);
    };
  }
  model.calibrate(sequences, coder, progress);
}

}  // namespace tenon::trainer
