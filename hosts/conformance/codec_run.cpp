#include "hosts/conformance/codec_run.h"

#include <algorithm>
#include <set>

#include "hosts/conformance/check.h"
#include "sdk/dtype.h"

namespace tenon::conformance {
namespace {

// What plan() declares. Called from inside the plugin, so it never throws.
struct Collector {
  struct Declared {
    std::string name;
    tn_dtype dtype;
    std::vector<int64_t> shape;
    uint32_t flags;
  };
  std::vector<Declared> components;
  std::string fault;

  static int32_t declare(void* self, const tn_component* c) {
    auto& out = *static_cast<Collector*>(self);
    if (!c || !c->name || !*c->name) return out.fault = "a component has no name", TN_E_ARGUMENT;
    if (c->ndim < 0 || c->ndim > 4)
      return out.fault = std::string("component ") + c->name + " has " + std::to_string(c->ndim) + " axes",
             TN_E_ARGUMENT;
    for (int32_t i = 0; i < c->ndim; ++i)
      if (c->shape[i] < 0 || c->shape[i] > 1 << 26)
        return out.fault = std::string("component ") + c->name + " has an impossible shape", TN_E_ARGUMENT;
    if (c->dtype.bits == 0 || c->dtype.lanes != 1)
      return out.fault = std::string("component ") + c->name + " has an impossible dtype", TN_E_ARGUMENT;
    out.components.push_back({c->name, c->dtype, {c->shape, c->shape + c->ndim}, c->flags});
    return TN_OK;
  }
};

uint32_t first_site(uint32_t sites) {
  return sites & (~sites + 1);
}

}  // namespace

std::vector<tn_tensor*> Coded::pointers() const {
  std::vector<tn_tensor*> out;
  for (const auto& p : parts) out.push_back(p->get());
  return out;
}
std::vector<std::vector<uint8_t>> Coded::bits() const {
  std::vector<std::vector<uint8_t>> out;
  for (const auto& p : parts) out.push_back(p->raw());
  return out;
}
uint64_t Coded::bytes() const {
  uint64_t n = 0;
  for (const auto& p : parts) n += p->bytes();
  return n;
}
void Coded::seal() {
  for (const auto& p : parts) p->seal();
}

CodecRun::CodecRun(Subject& subject, const Spec& spec, const std::vector<int64_t>& shape, bool longer,
                   uint32_t site)
    : bench_(subject.bench()), api_(subject.api<tn_quantizer_api>()), longer_(longer) {
  int32_t status = 0;
  instance_ = std::make_unique<Instance<tn_quantizer_api, tn_quantizer>>(api_, spec, status);
  if (status < 0) refused(status, "create");
  tn_target& t = *target_.get(TN_SIZE_TO(tn_target, name), longer);
  t.site = site ? site : first_site(api_.sites), t.role = TN_ROLE_Q, t.uid = 5, t.block = 0, t.dtype = sdk::kF32,
  t.name = "battery.weight";
  reshape(shape);
}

void CodecRun::reshape(const std::vector<int64_t>& shape) {
  target_.value.ndim = static_cast<int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), target_.value.shape);
  count_ = 1;
  for (const int64_t n : shape) count_ *= n;
}

Coded CodecRun::plan() {
  const auto collect = [&] {
    Collector c;
    Longer<tn_component_sink> sink;
    sink.value = {0, 0, &c, Collector::declare};
    const int32_t status = api_.plan(self(), target(), sink.get(TN_SIZE_TO(tn_component_sink, declare), longer_));
    expect(c.fault.empty(), c.fault);
    if (status < 0) refused(status, "plan");
    return c.components;
  };
  const auto components = collect(), again = collect();
  expect(components.size() == again.size(), "plan answers other components when it is asked again");
  expect(!components.empty(), "plan declares no component");
  Coded out;
  std::set<std::string> names;
  for (size_t i = 0; i < components.size(); ++i) {
    const auto& c = components[i];
    expect(c.name == again[i].name && c.shape == again[i].shape,
           "plan answers other components when it is asked again");
    expect(names.insert(c.name).second, "two components have the name " + c.name);
    out.names.push_back(c.name), out.flags.push_back(c.flags);
    out.parts.push_back(std::make_unique<Tensor>(bench_, "component " + c.name, c.dtype, c.shape));
  }
  return out;
}

int32_t CodecRun::ask(uint32_t op, int64_t rows, tn_estimate& out) {
  Longer<tn_estimate> e;
  const int32_t status = api_.estimate(self(), bench_.api, bench_.device, target(), op, rows,
                                       e.get(TN_SIZE_TO(tn_estimate, bytes_moved), longer_));
  expect(e.intact(), "estimate wrote past the end of tn_estimate as this ABI knows it");
  out = e.value;
  return status;
}

tn_estimate CodecRun::estimate(uint32_t op, int64_t rows) {
  tn_estimate e{};
  must(ask(op, rows, e), "estimate");
  return e;
}

int32_t CodecRun::try_encode(const std::vector<float>& values, Coded& out, tn_dtype dtype, uint8_t poison) {
  out = plan();
  tn_estimate e{};
  if (const int32_t asked = ask(TN_QUANTIZER_ENCODE, count_, e); asked < 0) refused(asked, "estimate of an encode");
  const std::vector<int64_t> shape(target()->shape, target()->shape + target()->ndim);
  Tensor src(bench_, "the source of an encode", dtype, shape, values);
  src.seal();
  const Exec exec(bench_, e.workspace_bytes, poison);
  const tn_rng rng{7, 5, 1};
  const int32_t status = api_.encode(self(), exec.get(), target(), src.get(), out.pointers().data(), &rng);
  bench_.expect_intact("encode");
  return status;
}

Coded CodecRun::encode(const std::vector<float>& values, tn_dtype dtype, uint8_t poison) {
  Coded out;
  must(try_encode(values, out, dtype, poison), "encode");
  return out;
}

std::vector<float> CodecRun::decode(const Coded& coded, int64_t begin, int64_t end, tn_dtype dtype, uint8_t poison) {
  Tensor dst(bench_, "the result of a decode", dtype, {end - begin});
  dst.fill(0xFF);
  const Exec exec(bench_, estimate(TN_QUANTIZER_DECODE, end - begin).workspace_bytes, poison);
  for (const auto& p : coded.parts) p->seal();
  must(api_.decode(self(), exec.get(), target(), coded.pointers().data(), begin, end, dst.get()),
       "decode of [" + std::to_string(begin) + ", " + std::to_string(end) + ")");
  bench_.expect_intact("decode");
  for (const auto& p : coded.parts) p->unseal();
  return dst.floats();
}

bool CodecRun::linear(const Coded& coded, bool backward, int64_t rows, const std::vector<float>& x, double alpha,
                      double beta, tn_dtype dtype, std::vector<float>& y) {
  const auto call = backward ? (TN_HAS(&api_, tn_quantizer_api, linear_backward) ? api_.linear_backward : nullptr)
                             : (TN_HAS(&api_, tn_quantizer_api, linear) ? api_.linear : nullptr);
  if (!call || target()->ndim != 2) return false;
  tn_estimate e{};
  if (const int32_t status = ask(backward ? TN_QUANTIZER_LINEAR_BACKWARD : TN_QUANTIZER_LINEAR, rows, e);
      status == TN_E_UNSUPPORTED)
    return false;
  else
    must(status, "estimate of a product");
  const int64_t m = target()->shape[0], n = target()->shape[1];
  Tensor in(bench_, "the input of a product", dtype, {rows, backward ? m : n}, x),
      out(bench_, "the result of a product", dtype, {rows, backward ? n : m}, y);
  in.seal();
  const Exec exec(bench_, e.workspace_bytes);
  for (const auto& p : coded.parts) p->seal();
  must(call(self(), exec.get(), target(), coded.pointers().data(), in.get(), alpha, beta, out.get()),
       backward ? "linear_backward" : "linear");
  bench_.expect_intact(backward ? "linear_backward" : "linear");
  for (const auto& p : coded.parts) p->unseal();
  y = out.floats();
  return true;
}

}  // namespace tenon::conformance
