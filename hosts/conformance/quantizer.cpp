// Checks of quantizers.
#include <cmath>
#include <map>

#include "core/error.h"
#include "hosts/conformance/attempts.h"
#include "hosts/conformance/check.h"
#include "hosts/conformance/codec_checks.h"
#include "hosts/conformance/codec_run.h"
#include "hosts/conformance/edits.h"
#include "sdk/dtype.h"
#include "sdk/philox.h"
#include "tenon/input_rounding.h"

namespace tenon::conformance {
namespace {

using Shape = std::vector<int64_t>;

// Block codecs may ask for whole blocks, so there is a target of whole blocks of every usual size; odd ones are a check
// of their own.
const Shape kUsual = {64, 256};

std::vector<std::pair<std::string, Spec>> settings(Subject& s) { return codec_settings(s, kUsual); }

void sizes(Subject& s) {
  for (const auto& [name, spec] : settings(s)) {
    CodecRun run(s, spec, kUsual);
    const Coded coded = run.encode(normals(run.count(), 1));
    const tn_estimate e = run.estimate(TN_QUANTIZER_ENCODE, run.count());
    expect(e.state_bytes == coded.bytes(), "estimate says " + std::to_string(e.state_bytes) +
                                               " bytes of components but plan declares " +
                                               std::to_string(coded.bytes()) + " with " + name);
  }
}

void round_trip(Subject& s) {
  for (const auto& [name, spec] : settings(s)) {
    CodecRun run(s, spec, kUsual);
    const std::vector<float> x = normals(run.count(), 1);
    for (const tn_dtype dtype : {sdk::kF32, sdk::kBF16, sdk::kF16}) {
      const double d = distance(run.decode(run.encode(x, dtype)), x);
      expect(d < 0.75,
             "decoding what was encoded from normal numbers leaves an error of " + percent(d) + " with " + name);
    }
    for (const float scale : {1e-3f, 1e4f}) {
      const std::vector<float> scaled = normals(run.count(), 1, scale);
      const double d = distance(run.decode(run.encode(scaled)), scaled);
      expect(d < 0.9, "numbers of the size " + std::to_string(scale) + " come back with an error of " + percent(d) +
                          " with " + name);
    }
  }
}

// What starts at zero must stay there. Formats of others may have no exact zero: weights alone may be held in them, with
// an error no larger than any other's, and they refuse every other target in words.
void zeros_at(Subject& s, const std::string& name, const Spec& spec, uint32_t site) {
  CodecRun run(s, spec, kUsual, false, site);
  const std::string where = (site == TN_SITE_WEIGHT ? " as a weight with " : " outside of weights with ") + name;
  std::vector<float> x(static_cast<size_t>(run.count()));
  for (const float y : run.decode(run.encode(x)))
    expect(y == 0, "a tensor of zeros does not decode to zeros" + where);
  x = normals(run.count(), 2);
  for (size_t i = 0; i < x.size(); i += 5) x[i] = 0;
  const std::vector<float> y = run.decode(run.encode(x));
  float worst = 0;
  for (size_t i = 0; i < x.size() && site == TN_SITE_WEIGHT; ++i)
    if (x[i] != 0) worst = std::max(worst, std::fabs(y[i] - x[i]));
  for (size_t i = 0; i < x.size(); i += 5)
    expect(std::fabs(y[i]) <= worst, "a zero among other numbers decodes to " + std::to_string(y[i]) + where);
}

void zeros(Subject& s) {
  for (const auto& [name, spec] : settings(s)) {
    const uint32_t sites = CodecRun(s, spec, kUsual).api().sites;
    for (uint32_t site = 1; site != 0 && site <= sites; site <<= 1) {
      if (!(sites & site)) continue;
      try {
        zeros_at(s, name, spec, site);
      } catch (const NotApplicable&) {
        if (site == TN_SITE_WEIGHT) throw;
      }
    }
  }
}

void non_finite(Subject& s) {
  for (const auto& [name, spec] : settings(s)) {
    CodecRun run(s, spec, kUsual);
    for (const float bad : {NAN, INFINITY, -INFINITY})
      for (const size_t at : {size_t{0}, size_t{777}, static_cast<size_t>(run.count() - 1)}) {
        std::vector<float> x = normals(run.count(), 3);
        x[at] = bad;
        Coded coded;
        const int32_t status = run.try_encode(x, coded);
        expect(status == TN_E_NUMERIC, std::string("encoding ") + (std::isnan(bad) ? "NaN" : "Inf") + " answered " +
                                           status_name(status) + " instead of TN_E_NUMERIC with " + name);
        expect(!sentence_for(status).empty(), "NaN or Inf is refused without a sentence with " + name);
      }
  }
}

void ranges(Subject& s) {
  for (const auto& [name, spec] : settings(s)) {
    CodecRun run(s, spec, kUsual);
    const Coded coded = run.encode(normals(run.count(), 4));
    const std::vector<float> full = run.decode(coded);
    const tn_dtype types[] = {sdk::kF32, sdk::kBF16, sdk::kF16};
    for (uint32_t trial = 0; trial < 30; ++trial) {
      const sdk::Words w = sdk::philox({7, trial, 0}, 0);
      const int64_t begin = w.w[0] % run.count(),
                    end = std::min<int64_t>(run.count(), begin + (trial % 2 ? w.w[1] % 70 : w.w[1] % run.count()));
      const tn_dtype dtype = types[trial % 3];
      const Tensor want(run.bench(), "expected", dtype, {end - begin}, slice(full, begin, end));
      expect(run.decode(coded, begin, end, dtype) == want.floats(),
             "elements [" + std::to_string(begin) + ", " + std::to_string(end) +
                 ") differ from the slice of the whole decode with " + name);
    }
    (void)run.decode(coded, 5, 5);
  }
}

void determinism(Subject& s) {
  for (const auto& [name, spec] : settings(s)) {
    CodecRun run(s, spec, kUsual);
    const std::vector<float> x = normals(run.count(), 5);
    const Coded first = run.encode(x);
    const auto bits = first.bits();
    const std::vector<float> decoded = run.decode(first);
    expect(run.encode(x).bits() == bits, "encoding twice gives different bits with " + name);
    expect(run.encode(x, sdk::kF32, 0).bits() == bits,
           "the codes depend on what the workspace held before with " + name);
    expect(run.decode(first, 0, run.count(), sdk::kF32, 0) == decoded,
           "the decode depends on what the workspace held before with " + name);
    for (const int threads : {1, 3})
      with_threads(threads, [&] {
        expect(run.encode(x).bits() == bits && run.decode(first) == decoded,
               "the result depends on the number of threads with " + name);
      });
    CodecRun newer(s, spec, kUsual, true);
    expect(newer.encode(x).bits() == bits, "the codes change when a newer host passes longer structs with " + name);
  }
}

// y = 0.5 · x W^T + 2 · y against decode and multiply.
void compare_product(CodecRun& run, const std::string& name, bool backward, int64_t rows, tn_dtype dtype,
                     double rounds_input, size_t& compared) {
  const int64_t m = run.target()->shape[0], n = run.target()->shape[1], in = backward ? m : n, out = backward ? n : m;
  const Coded coded = run.encode(normals(run.count(), 6));
  const std::vector<float> w = run.decode(coded);
  const Tensor x(run.bench(), "x", dtype, {rows, in}, normals(rows * in, 7)),
      before(run.bench(), "y", dtype, {rows, out}, normals(rows * out, 8));
  const std::vector<float> xs = x.floats(), y0 = before.floats();
  std::vector<float> y = y0;
  if (!run.linear(coded, backward, rows, xs, 0.5, 2, dtype, y)) return;
  ++compared;
  const double rounding = (dtype.bits == 32 ? 2e-5 : 0x1p-7) + rounds_input;
  for (int64_t t = 0; t < rows; ++t)
    for (int64_t j = 0; j < out; ++j) {
      double sum = 0, size = 0;
      for (int64_t k = 0; k < in; ++k) {
        const double p = double{xs[t * in + k]} * double{backward ? w[k * n + j] : w[j * n + k]};
        sum += p, size += std::fabs(p);
      }
      const double want = 0.5 * sum + 2.0 * y0[t * out + j];
      expect(std::fabs(y[t * out + j] - want) <= rounding * (size + std::fabs(want) + 1e-6),
             std::string(backward ? "linear_backward" : "linear") + " over " + std::to_string(rows) + " rows gives " +
                 std::to_string(y[t * out + j]) + " where decode and multiply give " + std::to_string(want) + " with " +
                 name);
    }
}

void products(Subject& s) {
  size_t compared = 0;
  const auto* rounds = s.plugin().extension<tn_input_rounding>(TN_EXT_INPUT_ROUNDING);
  for (const auto& [name, spec] : settings(s)) {
    CodecRun run(s, spec, kUsual);
    for (const bool backward : {false, true})
      for (const int64_t rows : {1, 5, 40})
        for (const tn_dtype dtype : {sdk::kF32, sdk::kBF16})
          compare_product(run, name, backward, rows, dtype, rounds && !backward ? rounds->share : 0, compared);
  }
  if (compared == 0) throw NotApplicable{"the codec offers no fused product; hosts decode and multiply"};
}

void odd_shapes(Subject& s) {
  Attempts attempts;
  for (const Shape& shape : {Shape{1}, {7}, {33, 130}, {3, 5, 7}, {1, 64}, {4, 32, 64}, {0}})
    for (const auto& values : s.variants(false))
      attempts.attempt([&] {
        CodecRun run(s, s.spec(values), shape);
        const std::vector<float> x = normals(run.count(), 9);
        Coded coded;
        const int32_t status = run.try_encode(x, coded);
        if (status < 0) refused(status, "encode");
        const double d = distance(run.decode(coded), x);
        expect(run.count() == 0 || d < 0.9, "a target of the shape " + shape_text(shape) +
                                                " comes back with an error of " + percent(d) + " with " +
                                                words(values));
      });
  if (!attempts.any()) throw NotApplicable{"every odd shape is refused: " + attempts.refusal()};
}

// What to_external hands out, copied.
struct External {
  Bench& bench;
  std::map<std::string, std::unique_ptr<Tensor>> tensors;
  static int32_t put(void* self, const char* suffix, const tn_tensor* t) {
    auto& e = *static_cast<External*>(self);
    auto copy = std::make_unique<Tensor>(e.bench, std::string("external tensor ") + suffix, t->dtype,
                                         std::vector<int64_t>(t->shape, t->shape + t->ndim));
    const auto* from = static_cast<const uint8_t*>(t->data) + t->byte_offset;
    copy->set_raw({from, from + copy->bytes()});
    e.tensors[suffix] = std::move(copy);
    return TN_OK;
  }
  static const tn_tensor* get(void* self, const char* suffix) {
    auto& e = *static_cast<External*>(self);
    const auto found = e.tensors.find(suffix);
    return found == e.tensors.end() ? nullptr : found->second->get();
  }
};

void layouts(Subject& s) {
  const auto* layout = s.plugin().extension<tn_layout>(TN_EXT_LAYOUT);
  if (!layout) throw NotApplicable{"the codec speaks no external layout"};
  size_t compared = 0;
  for (const auto& [name, spec] : settings(s)) {
    CodecRun run(s, spec, kUsual);
    const Coded coded = run.encode(normals(run.count(), 10));
    for (const char* const* l = layout->names; *l; ++l) {
      External external{run.bench(), {}};
      if (!accepted(
              layout->to_external(run.self(), *l, run.target(), coded.pointers().data(), &external, External::put),
              "to_external"))
        continue;
      const Coded back = run.plan();
      must(layout->from_external(run.self(), *l, run.target(), &external, External::get, back.pointers().data()),
           "from_external");
      run.bench().expect_intact("from_external");
      expect(run.decode(back) == run.decode(coded),
             std::string("the layout ") + *l + " does not come back to the same numbers with " + name);
      ++compared;
      External nothing{run.bench(), {}};
      expect(!accepted(
                 layout->from_external(run.self(), *l, run.target(), &nothing, External::get, back.pointers().data()),
                 "from_external"),
             "from_external accepts a file without any tensor");
    }
  }
  expect(compared > 0, "no setting can be written in any of the declared layouts");
}

void leaks(Subject& s) {
  const Spec spec = settings(s)[0].second;
  CodecRun run(s, spec, kUsual);
  const std::vector<float> x = normals(run.count(), 11);
  expect_no_leak([&] { (void)run.decode(run.encode(x)); });
  expect_no_leak([&] { CodecRun(s, spec, kUsual).plan(); });
}

constexpr Check kChecks[] = {
    {"sizes", "planned components and estimate agree byte for byte", sizes},
    {"round trip", "what is encoded comes back within the codec's precision, from f32, bf16 and f16", round_trip},
    {"zeros", "0 is coded so that it decodes to 0", zeros},
    {"non-finite", "NaN and Inf are refused with TN_E_NUMERIC", non_finite},
    {"ranges", "any range decodes to the slice of the whole, in every type", ranges},
    {"determinism", "equal bits again, for any number of threads, workspace content and newer host", determinism},
    {"products", "fused products equal decode and multiply", products},
    {"shared inputs", "several weights times one input give the bits of each by itself", check_linears},
    {"odd shapes", "scalars, empty tensors and odd sizes work or are refused in words", odd_shapes},
    {"layouts", "external layouts come back to the same numbers", layouts},
    {"segments", "any number of segments from the front is a weight, and one more makes it no worse", check_segments},
    {"trained grids", "a weight in training is its panels, its gradients add up, and hardened it is the same weight", check_trained_grids},
    {"edits", "a plan of model edits is the same again, its matrices depend on their statistic alone and refuse NaN", edits},
    {"leaks", "host memory does not grow with calls", leaks},
};

}  // namespace

std::vector<std::pair<std::string, Spec>> codec_settings(Subject& s, const Shape& shape) {
  std::string refusal;
  auto out = accepted_settings(s, s.variants(false), refusal, [&](const Spec& spec) {
    CodecRun run(s, spec, shape);
    Coded coded;
    const int32_t status = run.try_encode(normals(run.count(), 1), coded);
    if (status < 0) refused(status, "encode");
  });
  if (out.empty())
    throw NotApplicable{"no setting encodes a target of the shape " + shape_text(shape) + ": " + refusal};
  return out;
}

std::span<const Check> quantizer_checks() {
  return kChecks;
}

}  // namespace tenon::conformance
