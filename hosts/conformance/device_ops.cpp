// Checks of the transformer's operators, each against its formula in f64.
#include <cmath>
#include <cstring>

#include "hosts/conformance/check.h"
#include "hosts/conformance/device_checks.h"
#include "hosts/conformance/numbers.h"
#include "sdk/dtype.h"
#include "sdk/philox.h"
#include "tenon/ops.h"

namespace tenon::conformance {
namespace {

constexpr int64_t kRows = 13, kWidth = 70;

const tn_ops& ops_of(Subject& s) {
  const auto* ops = static_cast<const tn_ops*>(s.bench().api->get_extension(TN_EXT_OPS));
  if (!ops) throw NotApplicable{"the device does not offer " TN_EXT_OPS};
  return *ops;
}

// What is there after the same call once more, where a result is added.
void expect_added(const Tensor& t, const std::vector<float>& once, double tolerance, const std::string& what) {
  expect(distance(t.floats(), plus(once, 1, once)) <= tolerance, what + " replaces what is there instead of adding to it");
}

double tolerance(tn_dtype d) {
  return d.bits == 32 ? 2e-6 : 6e-3;
}

void expect_near(const std::vector<float>& got, const std::vector<double>& want, double tolerance,
                 const std::string& what) {
  const double d = distance(got, {want.begin(), want.end()});
  expect(d <= tolerance, what + " differs from its formula by " + percent(d));
}

std::unique_ptr<Tensor> int_tensor(Bench& b, const char* name, const std::vector<int32_t>& x) {
  auto t = std::make_unique<Tensor>(b, name, sdk::kI32, std::vector<int64_t>{static_cast<int64_t>(x.size())});
  std::vector<uint8_t> bytes(x.size() * 4);
  std::memcpy(bytes.data(), x.data(), bytes.size());
  t->set_raw(bytes);
  return t;
}

std::vector<double> doubles(const Tensor& t) {
  const std::vector<uint8_t> raw = t.raw();
  std::vector<double> out(raw.size() / 8);
  std::memcpy(out.data(), raw.data(), raw.size());
  return out;
}

}  // namespace

void norms(Subject& s) {
  const tn_ops& ops = ops_of(s);
  Bench& b = s.bench();
  for (const tn_dtype d : {sdk::kF32, sdk::kBF16}) {
    Tensor x(b, "x", d, {kRows, kWidth}, normals(kRows * kWidth, 1)),
        w(b, "the norm's weight", d, {kWidth}, normals(kWidth, 2)), y(b, "y", d, {kRows, kWidth}),
        rstd(b, "rstd", sdk::kF32, {kRows}), dy(b, "dy", d, {kRows, kWidth}, normals(kRows * kWidth, 3)),
        dx(b, "dx", d, {kRows, kWidth}), dw(b, "dweight", sdk::kF32, {kWidth});
    x.seal(), w.seal(), dy.seal();
    dx.fill(0xFF);  // NaN, which beta = 0 does not read
    must(ops.rms_norm(b.device, b.stream, x.get(), w.get(), 1e-5, y.get(), rstd.get()), "rms_norm");
    must(ops.rms_norm_backward(b.device, b.stream, dy.get(), x.get(), w.get(), rstd.get(), 0, dx.get(), dw.get()),
         "rms_norm_backward");
    b.expect_intact("rms_norm");
    const std::vector<float> vx = x.floats(), vw = w.floats(), vdy = dy.floats();
    std::vector<double> wy(vx.size()), wdx(vx.size()), wdw(kWidth);
    for (int64_t t = 0; t < kRows; ++t) {
      double mean = 0, inner = 0;
      for (int64_t j = 0; j < kWidth; ++j) mean += double{vx[t * kWidth + j]} * vx[t * kWidth + j] / kWidth;
      const double r = 1 / std::sqrt(mean + 1e-5);
      for (int64_t j = 0; j < kWidth; ++j) inner += double{vdy[t * kWidth + j]} * vw[j] * vx[t * kWidth + j];
      for (int64_t j = 0; j < kWidth; ++j) {
        const int64_t i = t * kWidth + j;
        wy[i] = vx[i] * r * vw[j], wdx[i] = r * vdy[i] * vw[j] - vx[i] * r * r * r * inner / kWidth,
        wdw[j] += double{vdy[i]} * vx[i] * r;
      }
    }
    expect_near(y.floats(), wy, tolerance(d), "rms_norm"),
        expect_near(dx.floats(), wdx, tolerance(d), "dx of rms_norm"),
        expect_near(dw.floats(), wdw, tolerance(d), "dweight of rms_norm");
    const std::vector<float> dx_once = dx.floats(), dw_once = dw.floats();
    must(ops.rms_norm_backward(b.device, b.stream, dy.get(), x.get(), w.get(), rstd.get(), 1, dx.get(), dw.get()),
         "rms_norm_backward");
    expect_added(dx, dx_once, tolerance(d), "dx of rms_norm with beta = 1");
    expect_added(dw, dw_once, tolerance(d), "dweight of rms_norm");
  }
}

void rotary(Subject& s) {
  const tn_ops& ops = ops_of(s);
  Bench& b = s.bench();
  const int64_t heads = 3, width = 16, half = width / 2;
  const std::vector<float> start = normals(kRows * heads * width, 4);
  std::vector<int32_t> places;
  std::vector<float> frequencies;
  for (int64_t t = 0; t < kRows; ++t) places.push_back(static_cast<int32_t>(t * 7));
  for (int64_t j = 0; j < half; ++j)
    frequencies.push_back(static_cast<float>(std::pow(10000.0, -static_cast<double>(j) / half)));
  Tensor x(b, "x", sdk::kF32, {kRows, heads, width}, start),
      f(b, "inverse frequencies", sdk::kF32, {half}, frequencies);
  const auto positions = int_tensor(b, "positions", places);
  f.seal(), positions->seal();
  must(ops.rope(b.device, b.stream, x.get(), positions->get(), f.get(), 1, 1), "rope");
  b.expect_intact("rope");
  std::vector<double> want(start.size());
  for (int64_t t = 0; t < kRows; ++t)
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t j = 0; j < half; ++j) {
        const int64_t i = (t * heads + h) * width + j;
        const double angle = static_cast<double>(static_cast<float>(places[t]) * frequencies[j]), c = std::cos(angle),
                     n = std::sin(angle);
        want[i] = start[i] * c - start[i + half] * n, want[i + half] = start[i + half] * c + start[i] * n;
      }
  expect_near(x.floats(), want, 2e-5, "rope");
  must(ops.rope(b.device, b.stream, x.get(), positions->get(), f.get(), 1, -1), "rope");
  expect(distance(x.floats(), start) < 1e-5, "rope with sign -1 does not turn back what sign +1 turned");
}

void gates(Subject& s) {
  const tn_ops& ops = ops_of(s);
  Bench& b = s.bench();
  for (const tn_dtype d : {sdk::kF32, sdk::kBF16}) {
    const auto random = [&](const char* name, uint32_t stream) {
      return std::make_unique<Tensor>(b, name, d, std::vector<int64_t>{kRows, kWidth},
                                      normals(kRows * kWidth, stream, 2));
    };
    const auto gate = random("gate", 5), up = random("up", 6), dout = random("dout", 7), out = random("out", 8),
               dgate = random("dgate", 9), dup = random("dup", 10);
    gate->seal(), up->seal(), dout->seal();
    must(ops.swiglu(b.device, b.stream, gate->get(), up->get(), out->get()), "swiglu");
    must(ops.swiglu_backward(b.device, b.stream, dout->get(), gate->get(), up->get(), dgate->get(), dup->get()),
         "swiglu_backward");
    b.expect_intact("swiglu");
    const std::vector<float> g = gate->floats(), u = up->floats(), o = dout->floats();
    std::vector<double> wy(g.size()), wg(g.size()), wu(g.size());
    for (size_t i = 0; i < g.size(); ++i) {
      const double sigmoid = 1 / (1 + std::exp(-double{g[i]}));
      wy[i] = g[i] * sigmoid * u[i], wu[i] = o[i] * g[i] * sigmoid,
      wg[i] = o[i] * u[i] * sigmoid * (1 + g[i] * (1 - sigmoid));
    }
    expect_near(out->floats(), wy, tolerance(d), "swiglu"),
        expect_near(dgate->floats(), wg, tolerance(d), "dgate of swiglu"),
        expect_near(dup->floats(), wu, tolerance(d), "dup of swiglu");
    gate->unseal(), up->unseal();
    must(ops.swiglu_backward(b.device, b.stream, dout->get(), gate->get(), up->get(), gate->get(), up->get()),
         "swiglu_backward in place");
    expect(gate->raw() == dgate->raw() && up->raw() == dup->raw(),
           "swiglu_backward gives other bits where dgate and dup alias gate and up");
  }
}

void sums(Subject& s) {
  const tn_ops& ops = ops_of(s);
  Bench& b = s.bench();
  for (const tn_dtype d : {sdk::kF32, sdk::kBF16}) {
    Tensor x(b, "x", sdk::kF32, {kRows, kWidth}, normals(kRows * kWidth, 11)),
        y(b, "y", d, {kRows, kWidth}, normals(kRows * kWidth, 12));
    const std::vector<float> vx = x.floats(), vy = y.floats();
    x.seal();
    must(ops.axpby(b.device, b.stream, 0.5, x.get(), -2, y.get()), "axpby");
    b.expect_intact("axpby");
    std::vector<double> want(vx.size());
    for (size_t i = 0; i < want.size(); ++i) want[i] = 0.5 * vx[i] - 2.0 * vy[i];
    expect_near(y.floats(), want, tolerance(d), "axpby");
    y.fill(0xFF);
    must(ops.axpby(b.device, b.stream, 1, x.get(), 0, y.get()), "axpby");
    expect(all_finite(y.floats()), "axpby with beta = 0 reads y");
    Tensor bias(b, "bias", d, {kWidth}, normals(kWidth, 13)), gradient(b, "dbias", sdk::kF32, {kWidth});
    const std::vector<float> before = y.floats(), vb = bias.floats();
    must(ops.bias_add(b.device, b.stream, bias.get(), y.get()), "bias_add");
    must(ops.bias_backward(b.device, b.stream, y.get(), gradient.get()), "bias_backward");
    b.expect_intact("bias_add");
    const std::vector<float> after = y.floats();
    std::vector<double> wb(kWidth);
    for (size_t i = 0; i < want.size(); ++i) want[i] = double{before[i]} + vb[i % kWidth], wb[i % kWidth] += after[i];
    expect_near(after, want, tolerance(d), "bias_add"), expect_near(gradient.floats(), wb, 1e-5, "bias_backward");
    const std::vector<float> once = gradient.floats();
    must(ops.bias_backward(b.device, b.stream, y.get(), gradient.get()), "bias_backward");
    expect_added(gradient, once, 1e-5, "bias_backward");
    Tensor total(b, "sums", {TN_FLOAT, 64, 1}, {2});
    std::vector<float> odd = after;
    odd[3] = NAN, odd[200] = INFINITY;
    must(ops.sum_squares(b.device, b.stream, y.get(), total.get()), "sum_squares");
    double squares = 0;
    for (const float v : after) squares += double{v} * v;
    expect(std::fabs(doubles(total)[0] - squares) <= 1e-6 * squares && doubles(total)[1] == 0,
           "sum_squares gives another sum or finds what is not there");
    y.set(odd);
    must(ops.sum_squares(b.device, b.stream, y.get(), total.get()), "sum_squares");
    expect(doubles(total)[1] == 2, "sum_squares does not count NaN and Inf");
  }
}

void tokens(Subject& s) {
  const tn_ops& ops = ops_of(s);
  Bench& b = s.bench();
  const int64_t vocabulary = 101;
  std::vector<int32_t> id, label;
  for (int64_t t = 0; t < kRows; ++t)
    id.push_back(static_cast<int32_t>(t * 17 % 5)),
        label.push_back(t % 4 == 3 ? -1 : static_cast<int32_t>(t * 13 % vocabulary));
  Tensor table(b, "table", sdk::kF32, {vocabulary, kWidth}, normals(vocabulary * kWidth, 14)),
      y(b, "y", sdk::kF32, {kRows, kWidth}), dy(b, "dy", sdk::kF32, {kRows, kWidth}, normals(kRows * kWidth, 15)),
      dtable(b, "dtable", sdk::kF32, {vocabulary, kWidth});
  const auto ids = int_tensor(b, "ids", id), labels = int_tensor(b, "labels", label);
  table.seal(), dy.seal(), ids->seal(), labels->seal();
  must(ops.embedding(b.device, b.stream, table.get(), ids->get(), y.get()), "embedding");
  must(ops.embedding_backward(b.device, b.stream, ids->get(), dy.get(), dtable.get()), "embedding_backward");
  b.expect_intact("embedding");
  const std::vector<float> vt = table.floats(), vdy = dy.floats();
  std::vector<double> wy(y.count()), wt(table.count());
  for (int64_t t = 0; t < kRows; ++t)
    for (int64_t j = 0; j < kWidth; ++j)
      wy[t * kWidth + j] = vt[id[t] * kWidth + j], wt[id[t] * kWidth + j] += vdy[t * kWidth + j];
  expect_near(y.floats(), wy, 0, "embedding"), expect_near(dtable.floats(), wt, 1e-6, "embedding_backward");
  const std::vector<float> once = dtable.floats();
  must(ops.embedding_backward(b.device, b.stream, ids->get(), dy.get(), dtable.get()), "embedding_backward");
  expect_added(dtable, once, 1e-6, "embedding_backward");

  Tensor logits(b, "logits", sdk::kF32, {kRows, vocabulary}, normals(kRows * vocabulary, 16, 3)),
      losses(b, "losses", {TN_FLOAT, 64, 1}, {kRows});
  const std::vector<float> l = logits.floats();
  must(ops.cross_entropy(b.device, b.stream, logits.get(), labels->get(), 0, losses.get()), "cross_entropy");
  b.expect_intact("cross_entropy");
  expect(logits.floats() == l, "cross_entropy with grad_scale 0 changes the logits");
  must(ops.cross_entropy(b.device, b.stream, logits.get(), labels->get(), 0.25, losses.get()), "cross_entropy");
  const std::vector<double> loss = doubles(losses);
  std::vector<double> gradient(l.size());
  for (int64_t t = 0; t < kRows; ++t) {
    double sum = 0;
    for (int64_t j = 0; j < vocabulary; ++j) sum += std::exp(double{l[t * vocabulary + j]});
    const double want = label[t] < 0 ? 0 : std::log(sum) - l[t * vocabulary + label[t]];
    expect(std::fabs(loss[t] - want) < 1e-5 * (1 + std::fabs(want)),
           "cross_entropy gives a loss of " + std::to_string(loss[t]) + " where the formula gives " +
               std::to_string(want));
    for (int64_t j = 0; j < vocabulary && label[t] >= 0; ++j)
      gradient[t * vocabulary + j] = 0.25 * (std::exp(double{l[t * vocabulary + j]}) / sum - (j == label[t]));
  }
  expect_near(logits.floats(), gradient, 1e-5, "the gradient of cross_entropy");
}

void draws(Subject& s) {
  const tn_ops& ops = ops_of(s);
  Bench& b = s.bench();
  const int64_t n = 4099;
  const tn_rng rng{123, 4, 5};
  Tensor x(b, "random numbers", sdk::kF32, {n}), y(b, "rounded numbers", sdk::kBF16, {n});
  must(ops.fill_random(b.device, b.stream, TN_FILL_NORMAL, 1, 2, &rng, x.get()), "fill_random");
  std::vector<double> want(n);
  for (int64_t i = 0; i < n; ++i) want[i] = 1 + 2.0 * sdk::normal(rng, i);
  expect_near(x.floats(), want, 1e-6, "fill_random of normal numbers");
  must(ops.fill_random(b.device, b.stream, TN_FILL_UNIFORM, 1, 2, &rng, x.get()), "fill_random");
  for (const float v : x.floats()) expect(v >= -1 && v <= 3, "a uniform number lies outside its interval");
  x.set(std::vector<float>(n, 1 + 0x1p-9f));  // a quarter of the way between two bf16 numbers
  x.seal();
  must(ops.round_stochastic(b.device, b.stream, x.get(), &rng, y.get()), "round_stochastic");
  b.expect_intact("round_stochastic");
  double mean = 0;
  for (const float v : y.floats()) {
    expect(v == 1 || v == 1 + 0x1p-7f, "round_stochastic gives a number that is no neighbour");
    mean += v / n;
  }
  expect(std::fabs((mean - 1) / 0x1p-7 - 0.25) < 0.03,
         "round_stochastic rounds up " + percent((mean - 1) / 0x1p-7) + " of the time where 25% is right");
}

void ops_determinism(Subject& s) {
  const tn_ops& ops = ops_of(s);
  Bench& b = s.bench();
  const auto everything = [&] {
    std::vector<std::vector<uint8_t>> out;
    Tensor x(b, "x", sdk::kF32, {300, 257}, normals(300 * 257, 17)), w(b, "w", sdk::kF32, {257}, normals(257, 18)),
        y(b, "y", sdk::kF32, {300, 257}), rstd(b, "rstd", sdk::kF32, {300}), dw(b, "dw", sdk::kF32, {257}),
        total(b, "sums", {TN_FLOAT, 64, 1}, {2}), bias(b, "dbias", sdk::kF32, {257}),
        dx(b, "dx", sdk::kF32, {300, 257}), dtable(b, "dtable", sdk::kF32, {50, 257}),
        logits(b, "logits", sdk::kF32, {300, 257}, normals(300 * 257, 19)), losses(b, "losses", {TN_FLOAT, 64, 1}, {300});
    std::vector<int32_t> id(300);
    for (size_t t = 0; t < id.size(); ++t) id[t] = static_cast<int32_t>(t * 17 % 7);  // every row is met often
    const auto ids = int_tensor(b, "ids", id);
    must(ops.rms_norm(b.device, b.stream, x.get(), w.get(), 1e-5, y.get(), rstd.get()), "rms_norm");
    must(ops.rms_norm_backward(b.device, b.stream, y.get(), x.get(), w.get(), rstd.get(), 0, dx.get(), dw.get()),
         "rms_norm_backward");
    must(ops.sum_squares(b.device, b.stream, x.get(), total.get()), "sum_squares");
    must(ops.bias_backward(b.device, b.stream, x.get(), bias.get()), "bias_backward");
    must(ops.embedding_backward(b.device, b.stream, ids->get(), y.get(), dtable.get()), "embedding_backward");
    must(ops.cross_entropy(b.device, b.stream, logits.get(), ids->get(), 0.25, losses.get()), "cross_entropy");
    for (const Tensor* t : {&y, &dx, &dw, &total, &bias, &dtable, &logits, &losses}) out.push_back(t->raw());
    return out;
  };
  std::vector<std::vector<uint8_t>> first;
  with_threads(1, [&] { first = everything(); });
  for (const int threads : {2, 3, 5})
    with_threads(threads,
                 [&] { expect(everything() == first, "an operator's result depends on the number of threads"); });
}

}  // namespace tenon::conformance
