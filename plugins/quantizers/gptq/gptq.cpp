// The codec proper: sizes, rounding to nearest, decoding. calibrated.cpp is the method.
#include "quantizers/gptq/codec.h"

#include <vector>

#include "quantizers/gptq/store.h"

namespace tenon::gptq {
namespace {

constexpr int64_t kChunk = 512;  // codes unpacked at a time: a multiple of 8

template <class T>
void decode_row(const Sizes& s, const Parts& p, int bits, int64_t row, int64_t begin, int64_t end, float* scale, float* zero, T* dst) {
  for (int64_t g = 0; g < s.groups; ++g) {
    scale[g] = sdk::to_float(p.scales[row * s.groups + g]);
    zero[g] = static_cast<float>(code_at(p.zeros + row * s.zero_row, g, bits));
  }
  const uint8_t* codes = p.codes + row * s.code_row;
  uint8_t unpacked[kChunk + 8];
  float value[kChunk];
  for (int64_t at = begin; at < end;) {
    const int64_t first = at & ~int64_t{7}, stop = std::min(end, first + kChunk);
    unpack(codes, s.code_row, first, stop - first, bits, unpacked);
    const uint8_t* code = unpacked + (at - first);
    if (p.g_idx) {
      for (int64_t j = at; j < stop; ++j) value[j - at] = scale[p.g_idx[j]] * (static_cast<float>(code[j - at]) - zero[p.g_idx[j]]);
    } else {
      for (int64_t j = at; j < stop;) {
        const int64_t g = j / s.group, next = std::min(stop, (g + 1) * s.group);
        const float a = scale[g], z = zero[g];
        for (int64_t i = j; i < next; ++i) value[i - at] = a * (static_cast<float>(code[i - at]) - z);
        j = next;
      }
    }
    sdk::convert(value, dst + (at - begin), stop - at);
    at = stop;
  }
}

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
constexpr const tn_hyper_info* kHypers[] = {&kBits,         &kGroupSize, &kDamping,   &kBlockSize, &kSymmetric, &kActOrder,
                                            &kStaticGroups, &kSearch,    &kCalibrate, &kSamples,   &kLength};

constexpr tn_quantizer_api kApi = sdk::quantizer_api<Codec>();
constexpr tn_calibrate kCalibrateApi = sdk::calibrate_api<Codec>();

const void* extension(const char* id) {
  return std::strcmp(id, TN_EXT_CALIBRATE) == 0 ? &kCalibrateApi : nullptr;
}

const tn_plugin kPlugin = sdk::describe(TN_KIND_QUANTIZER, "gptq", "0.9.0", kHypers, &kApi, extension);

}  // namespace

Sizes::Sizes(const tn_target& target, const Options& o) {
  const int64_t all = sdk::elements(target);
  n = target.ndim > 0 ? target.shape[target.ndim - 1] : 1;
  m = n > 0 ? all / n : 0;
  group = o.group_size < 0 ? std::max<int64_t>(n, 1) : o.group_size;
  groups = sdk::ceil_div(n, group);
  code_row = row_bytes(n, o.grid.bits), zero_row = row_bytes(groups, o.grid.bits);
  indexed = o.act_order && !o.static_groups && groups > 1;
}

Parts::Parts(const Sizes& s, tn_tensor* const* components)
    : codes(sdk::component<uint8_t>(components, 0, "codes", s.m * s.code_row)),
      zeros(sdk::component<uint8_t>(components, 2, "zeros", s.m * s.zero_row)),
      scales(sdk::component<sdk::f16>(components, 1, "scales", s.m * s.groups)),
      g_idx(nullptr) {
  if (!s.indexed) return;
  const tn_tensor* t = components[3];
  if (!t || !sdk::same(t->dtype, sdk::kI32) || sdk::count(*t) != s.n || !sdk::is_contiguous(*t))
    sdk::fail(TN_E_ARGUMENT, "gptq: component g_idx must be one int32 per input");
  g_idx = sdk::data<int32_t>(*t);
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
}

void Codec::supports(const tn_query& query) const {
  sdk::require_cpu_floats(query, "gptq");
}

void Codec::plan(const tn_target& target, const tn_component_sink& sink) const {
  const Sizes s(target, options_);
  const uint32_t bits = static_cast<uint32_t>(options_.grid.bits);
  sdk::declare(sink, "codes", sdk::kU8, s.m * s.code_row, bits);
  sdk::declare(sink, "scales", sdk::kF16, s.m * s.groups);
  sdk::declare(sink, "zeros", sdk::kU8, s.m * s.zero_row, bits);
  if (s.indexed) sdk::declare(sink, "g_idx", sdk::kI32, s.n);
}

void Codec::estimate(const tn_device_api*, tn_device*, const tn_target& target, uint32_t op, int64_t rows, tn_estimate& out) const {
  const Sizes s(target, options_);
  const int64_t state = s.m * (s.code_row + s.zero_row + 2 * s.groups) + (s.indexed ? 4 * s.n : 0);
  const double each = static_cast<double>(state) / static_cast<double>(std::max<int64_t>(s.m * s.n, 1)) + target.dtype.bits / 8.0;
  if (op == TN_QUANTIZER_ENCODE) {
    sdk::Workspace w;
    Scratch(w, s);
    sdk::set_estimate(out, 10.0 * rows, each * rows, state, w.peak());
  } else if (op == TN_QUANTIZER_DECODE) {
    sdk::set_estimate(out, 2.0 * rows, each * rows, state);
  } else {
    sdk::fail(TN_E_UNSUPPORTED, "gptq has no fused product; decode and multiply instead");
  }
}

void Codec::encode(const tn_exec* exec, const tn_target& target, const tn_tensor& src, tn_tensor* const* components, const tn_rng*) const {
  const Sizes s(target, options_);
  const Parts parts(s, components);
  sdk::check_source(target, src, s.m * s.n);
  sdk::Workspace w(*exec);
  const Scratch scratch(w, s);
  sdk::with_float_type(src.dtype, "gptq: a tensor to quantize", [&](auto type) {
    const auto* from = sdk::data<const decltype(type)>(src);
    sdk::for_each_block(exec, s.m, [=](const sdk::Block& row) { sdk::convert(from + row.index * s.n, scratch.w + row.index * s.n, s.n); });
  });
  check_finite(exec, target, scratch.w, s);
  Problem p = problem(s, options_, scratch);
  p.block = s.n;
  solve(exec, p, nullptr);
  store(exec, s, options_, p, nullptr, parts);
}

void Codec::decode(const tn_exec* exec, const tn_target& target, tn_tensor* const* components, int64_t begin, int64_t end,
                   tn_tensor& dst) const {
  const Sizes s(target, options_);
  const Parts parts(s, components);
  sdk::check_range(target, s.m * s.n, begin, end, dst);
  if (begin == end) return;
  if (parts.g_idx)
    for (int64_t j = 0; j < s.n; ++j)
      if (parts.g_idx[j] < 0 || parts.g_idx[j] >= s.groups)
        sdk::fail(TN_E_FORMAT, sdk::name_of(target) + ": input " + std::to_string(j) + " names group " + std::to_string(parts.g_idx[j]) +
                                   " of " + std::to_string(s.groups) + "; the file is damaged");
  const int bits = options_.grid.bits;
  const int64_t first = begin / s.n, last = sdk::ceil_div(end, s.n);
  sdk::with_float_type(dst.dtype, "gptq: a decoded tensor", [&](auto type) {
    auto* to = sdk::data<decltype(type)>(dst);
    sdk::for_each_block(exec, last - first, [=, &s, &parts](const sdk::Block& block) {
      const int64_t row = first + block.index, a = std::max(begin, row * s.n), b = std::min(end, (row + 1) * s.n);
      thread_local std::vector<float> grid;
      grid.resize(static_cast<size_t>(2 * s.groups));
      decode_row(s, parts, bits, row, a - row * s.n, b - row * s.n, grid.data(), grid.data() + s.groups, to + (a - begin));
    }, s.n);
  });
}

}  // namespace tenon::gptq

TENON_PLUGIN(tenon::gptq::kPlugin)
