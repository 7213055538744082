// The codec proper: sizes and decoding. encode.cpp is the method.
#include "quantizers/gptq/codec.h"
#include "sdk/integer/grouped_codec.h"

namespace tenon::gptq {
namespace {

constexpr tn_hyper_info kBits = sdk::choice("bits", "4", "2|3|4|8", "bits of a code");
constexpr tn_hyper_info kGroupSize = sdk::choice("group_size", "128", "-1|32|64|128", "inputs that share a scale and a zero point; -1: all of a row");
constexpr tn_hyper_info kDamping =
    sdk::real("damp_percent", "0.01", 1e-6, 1, 0, "", "share of the Hessian's mean diagonal that is added to its diagonal");
constexpr tn_hyper_info kBlockSize = sdk::integer("block_size", "128", 1, 1024, "columns", "columns compensated among themselves before the rest is");
constexpr tn_hyper_info kSymmetric = sdk::flag("sym", "false", "grids symmetric about zero");
constexpr tn_hyper_info kActOrder = sdk::flag("act_order", "false", "code the columns with the largest inputs first");
constexpr tn_hyper_info kStaticGroups =
    sdk::flag("static_groups", "false", "grids from the weight as it was, so that with act_order groups stay neighbours");
constexpr tn_hyper_info kSearch = sdk::flag("mse", "false", "shrink each grid's range to the least error");
constexpr tn_hyper_info kCalibrate = sdk::flag("calibrate", "true", "false: round to nearest on the same grids, without data");
constexpr tn_hyper_info kSamples = sdk::integer("samples", "128", 1, 65536, "sequences", "sequences of calibration text");
constexpr tn_hyper_info kLength = sdk::integer("sample_length", "2048", 2, 1 << 20, "tokens", "tokens of a calibration sequence");
constexpr tn_hyper_info kFormat =
    sdk::choice("checkpoint_format", "gptq", "gptq|gptq_v2", "of folders: zero points less one, as most readers expect, or as they are");
constexpr const tn_hyper_info* kHypers[] = {&kBits,         &kGroupSize, &kDamping,   &kBlockSize, &kSymmetric, &kActOrder,
                                            &kStaticGroups, &kSearch,    &kCalibrate, &kSamples,   &kLength, &kFormat};

constexpr tn_quantizer_api kApi = sdk::quantizer_api<Codec>();
constexpr tn_calibrate kCalibrateApi = sdk::calibrate_api<Codec>();

const void* extension(const char* id) {
  if (std::strcmp(id, TN_EXT_CALIBRATE) == 0) return &kCalibrateApi;
  return std::strcmp(id, TN_EXT_LAYOUT) == 0 ? &kLayout : nullptr;
}

const tn_plugin kPlugin = sdk::describe(TN_KIND_QUANTIZER, "gptq", "0.9.0", kHypers, &kApi, extension);

}  // namespace

Sizes::Sizes(const tn_target& target, const Options& o) : GroupedSizes(target, o.grid.bits, o.group_size) {
  indexed = o.act_order && !o.static_groups && groups > 1;
}

Codec::Codec(const tn_host* host, const sdk::Hypers& hypers) : host_(host) {
  Options& o = options_;
  o.grid.bits = std::stoi(std::string(hypers.text("bits")));
  o.group_size = std::stoll(std::string(hypers.text("group_size")));
  o.damping = hypers.real("damp_percent");
  o.block_size = hypers.integer("block_size");
  o.grid.symmetric = hypers.flag("sym"), o.grid.search = hypers.flag("mse");
  o.act_order = hypers.flag("act_order"), o.static_groups = hypers.flag("static_groups"), o.calibrated = hypers.flag("calibrate");
  o.samples = hypers.integer("samples"), o.length = hypers.integer("sample_length");
  o.second_layout = hypers.text("checkpoint_format") == "gptq_v2";
}

void Codec::supports(const tn_query& query) const {
  sdk::require_floats(query, "gptq");
}

void Codec::plan(const tn_target& target, const tn_component_sink& sink) const {
  sdk::declare_grouped(sink, Sizes(target, options_));
}

void Codec::estimate(const tn_device_api*, tn_device*, const tn_target& target, uint32_t op, int64_t rows, tn_estimate& out) const {
  const Sizes s(target, options_);
  if (sdk::estimate_grouped("gptq", target, s, op, rows, out)) return;
  sdk::Workspace w;
  Scratch(w, s);
  const double each = static_cast<double>(s.bytes()) / static_cast<double>(std::max<int64_t>(s.m * s.n, 1)) + target.dtype.bits / 8.0;
  sdk::set_estimate(out, 10.0 * rows, each * rows, s.bytes(), w.peak());
}

void Codec::decode(const tn_exec* exec, const tn_target& target, tn_tensor* const* components, int64_t begin, int64_t end,
                   tn_tensor& dst) const {
  const Sizes s(target, options_);
  sdk::decode_grouped(exec, target, s, components, begin, end, dst);
}

void Codec::linear(const tn_exec* exec, const tn_target& target, tn_tensor* const* components, const tn_tensor& x, double alpha, double beta,
                   tn_tensor& y) const {
  sdk::multiply_grouped(exec, target, Sizes(target, options_), components, x, alpha, beta, y);
}

}  // namespace tenon::gptq

TENON_PLUGIN(tenon::gptq::kPlugin)
