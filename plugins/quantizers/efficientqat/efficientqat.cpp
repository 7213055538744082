// The codec proper: options, sizes, decoding. trainable.cpp is the method.
#include "quantizers/efficientqat/codec.h"
#include "sdk/integer/grouped_codec.h"

namespace tenon::efficientqat {
namespace {

constexpr tn_hyper_info kBits = sdk::choice("bits", "2", "2|3|4", "bits of a code");
constexpr tn_hyper_info kGroupSize = sdk::choice("group_size", "64", "-1|32|64|128", "inputs that share a scale and a zero point; -1: all of a row");
constexpr tn_hyper_info kScaleBits = sdk::choice("scale_bits", "16", "16|32", "bits of a stored scale; 32: scales may be trained on");
constexpr tn_hyper_info kTrain = sdk::flag("train", "true", "false: round to nearest on each group's range, without text");
constexpr tn_hyper_info kSamples = sdk::integer("train_size", "4096", 1, 1 << 20, "sequences", "sequences of text");
constexpr tn_hyper_info kLength = sdk::integer("training_seqlen", "2048", 2, 1 << 20, "tokens", "tokens of a sequence");
constexpr tn_hyper_info kValidation = sdk::integer("val_size", "64", 0, 65536, "sequences", "sequences kept apart: a block's training ends when their loss no longer falls");
constexpr tn_hyper_info kEpochs = sdk::integer("epochs", "2", 0, 1000, "", "passes over the text for each block");
constexpr tn_hyper_info kBatch = sdk::integer("batch_size", "2", 1, 4096, "sequences", "sequences of a step");
constexpr tn_hyper_info kQuantLr = sdk::real("quant_lr", "1e-4", 0, 1, 0, "", "learning rate of scales and zero points");
constexpr tn_hyper_info kWeightLr = sdk::real("weight_lr", "2e-5", 0, 1, 0, "", "learning rate of weights; the paper's for 2 bits, 1e-5 for more");
constexpr tn_hyper_info kOptimizer = sdk::text("optimizer", "adamw:weight_decay=0", "spec of the optimizer");
constexpr const tn_hyper_info* kHypers[] = {&kBits,   &kGroupSize, &kScaleBits, &kTrain,    &kSamples,  &kLength,
                                            &kValidation, &kEpochs, &kBatch,    &kQuantLr, &kWeightLr, &kOptimizer};

constexpr tn_quantizer_api kApi = sdk::quantizer_api<Codec>();

const void* extension(const char* id) {
  if (std::strcmp(id, TN_EXT_TRAINABLE) == 0) return &trainable_table();
  return std::strcmp(id, TN_EXT_LAYOUT) == 0 ? &kLayout : nullptr;
}

const tn_plugin kPlugin = sdk::describe(TN_KIND_QUANTIZER, "efficientqat", "0.9.0", kHypers, &kApi, extension);

}  // namespace

Codec::Codec(const tn_host*, const sdk::Hypers& hypers) {
  Options& o = options_;
  o.bits = std::stoi(std::string(hypers.text("bits"))), o.scale_bits = std::stoi(std::string(hypers.text("scale_bits")));
  o.group_size = std::stoll(std::string(hypers.text("group_size")));
  o.trained = hypers.flag("train");
  o.samples = hypers.integer("train_size"), o.length = hypers.integer("training_seqlen"), o.validation = hypers.integer("val_size");
  o.epochs = hypers.integer("epochs"), o.batch = hypers.integer("batch_size");
  o.quant_lr = hypers.real("quant_lr"), o.weight_lr = hypers.real("weight_lr");
  o.optimizer = hypers.text("optimizer");
}

void Codec::supports(const tn_query& query) const { sdk::require_floats(query, "efficientqat"); }

void Codec::plan(const tn_target& target, const tn_component_sink& sink) const {
  sdk::declare_grouped(sink, Sizes(target, options_), options_.scale_bits == 32 ? uint32_t{TN_COMPONENT_TRAINABLE} : 0u);
}

void Codec::estimate(const tn_device_api*, tn_device*, const tn_target& target, uint32_t op, int64_t rows, tn_estimate& out) const {
  const Sizes s(target, options_);
  if (sdk::estimate_grouped("efficientqat", target, s, op, rows, out)) return;
  sdk::Workspace w;
  Scratch(w, s);
  const double each = static_cast<double>(s.bytes()) / static_cast<double>(std::max<int64_t>(s.m * s.n, 1)) + target.dtype.bits / 8.0;
  sdk::set_estimate(out, 10.0 * rows, each * rows, s.bytes(), w.peak());
}

void Codec::decode(const tn_exec* exec, const tn_target& target, tn_tensor* const* components, int64_t begin, int64_t end, tn_tensor& dst) const {
  sdk::decode_grouped(exec, target, Sizes(target, options_), components, begin, end, dst);
}

void Codec::linear(const tn_exec* exec, const tn_target& target, tn_tensor* const* components, const tn_tensor& x, double alpha, double beta,
                   tn_tensor& y) const {
  sdk::multiply_grouped(exec, target, Sizes(target, options_), components, x, alpha, beta, y);
}

}  // namespace tenon::efficientqat

TENON_PLUGIN(tenon::efficientqat::kPlugin)
