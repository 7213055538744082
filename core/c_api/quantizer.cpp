// Coding tensors and decoding them again.
#include "core/c_api/borrowed.h"
#include "core/c_api/guard.h"
#include "core/c_api/objects.h"
#include "core/error.h"
#include "core/plugins/host.h"

using namespace tenon;
using c_api::guard;
using c_api::need;
using c_api::table;

namespace {

tn_quantizer* instance_of(tn_technique& t) {
  return static_cast<tn_quantizer*>(t.instance);
}

struct Collector {
  tn_coded* coded;
  std::exception_ptr failure = nullptr;
};

int32_t declare_component(void* self, const tn_component* component) {
  Collector& to = *static_cast<Collector*>(self);
  tn_coded& coded = *to.coded;
  try {
    if (!TN_HAS(component, tn_component, name) || !component->name)
      throw Error(TN_E_FORMAT, coded.technique.spec.id + ": a component has no name");
    auto& added = coded.components.emplace_back(tn_coded::Component{*component, component->name, nullptr});
    added.info.name = added.name.c_str();
    added.tensor = c_api::make_tensor(coded.technique.session, Category::kCodec, component->dtype, component->ndim,
                                      component->shape);
    coded.tensors.push_back(&added.tensor->tensor);
    return TN_OK;
  } catch (...) {
    to.failure = std::current_exception();
    return TN_E_ARGUMENT;
  }
}

uint64_t workspace_of(tn_technique& t, const tn_target& target, uint32_t op, int64_t elements) {
  tn_estimate estimate{};
  estimate.struct_size = TN_SIZE_TO(tn_estimate, bytes_moved);
  check(table<tn_quantizer_api>(t).estimate(instance_of(t), &t.session.device.api(), t.session.device.handle(), &target,
                                            op, elements, &estimate),
        t.spec.id + " cannot estimate its work");
  return estimate.workspace_bytes;
}

int64_t count(const tn_target& target) {
  int64_t n = 1;
  for (int32_t i = 0; i < target.ndim; ++i) {
    if (target.shape[i] < 0 || __builtin_mul_overflow(n, target.shape[i], &n)) {
      throw Error(TN_E_ARGUMENT, "the target's dimension " + std::to_string(i) + " of " +
                                     std::to_string(target.shape[i]) + " makes no tensor");
    }
  }
  return n;
}

void ask_support(tn_technique& t, const tn_target& target) {
  tn_query query{};
  query.struct_size = TN_SIZE_TO(tn_query, shape);
  query.role = target.role;
  query.device = t.session.device.id();
  query.dtype = query.compute = target.dtype;
  query.ndim = target.ndim;
  std::copy_n(target.shape, 4, query.shape);
  check(table<tn_quantizer_api>(t).supports(instance_of(t), &query), t.spec.id + " cannot code this tensor");
}

}  // namespace

int32_t tn_quantizer_encode(tn_technique* quantizer, const tn_target* target, const tn_tensor* src, uint64_t seed,
                            tn_coded** out) {
  return guard([&] {
    need(quantizer, "quantizer");
    need(target, "target");
    need(src, "src");
    need(out, "out");
    tn_technique& t = *quantizer;
    const tn_quantizer_api& api = table<tn_quantizer_api>(t);
    if (!TN_HAS(target, tn_target, name)) throw Error(TN_E_ARGUMENT, "tn_target.struct_size is not set");
    if (target->ndim < 0 || target->ndim > 4)
      throw Error(TN_E_ARGUMENT, "the target has " + std::to_string(target->ndim) + " dimensions; 0 to 4 are possible");
    auto coded = std::unique_ptr<tn_coded>(new tn_coded{t, *target, target->name ? target->name : ""});
    coded->target.name = coded->name.c_str();
    const int64_t elements = count(coded->target);
    c_api::check_borrowed(t.session, *src, "the tensor to code", c_api::Access::kRead);
    c_api::check_dtype(*src, target->dtype, "the tensor to code", "which the target states");
    (void)c_api::dense_bytes(*src, "the tensor to code");
    int64_t given = 1;
    for (int32_t i = 0; i < src->ndim; ++i) given *= src->shape[i];
    if (given != elements) {
      throw Error(TN_E_ARGUMENT, "the tensor to code has " + std::to_string(given) +
                                     " elements but the target states " + std::to_string(elements));
    }
    ask_support(t, coded->target);
    Collector collector{coded.get()};
    const tn_component_sink sink = {TN_SIZE_TO(tn_component_sink, declare), 0, &collector, declare_component};
    const int32_t status = api.plan(instance_of(t), &coded->target, &sink);
    if (collector.failure) std::rethrow_exception(collector.failure);
    check(status, t.spec.id + " cannot plan the code of this tensor");
    const tn_rng rng = {seed, target->uid, 0};
    c_api::with_workspace(t.session, workspace_of(t, coded->target, TN_QUANTIZER_ENCODE, elements),
                          [&](const tn_exec& exec) {
                            check(api.encode(instance_of(t), &exec, &coded->target, src, coded->tensors.data(), &rng),
                                  t.spec.id + " cannot code this tensor");
                            t.session.stream.wait();
                          });
    *out = coded.release();
  });
}

int32_t tn_quantizer_decode(tn_technique* quantizer, tn_coded* coded, int64_t begin, int64_t end, tn_tensor* dst) {
  return guard([&] {
    need(quantizer, "quantizer");
    need(coded, "coded");
    need(dst, "dst");
    tn_technique& t = *quantizer;
    const tn_quantizer_api& api = table<tn_quantizer_api>(t);
    if (&coded->technique != &t)
      throw Error(TN_E_ARGUMENT, "the tensor was coded by another instance; decode it with the one that coded it");
    const int64_t elements = count(coded->target);
    int64_t room = 1;
    c_api::check_borrowed(t.session, *dst, "the tensor to decode into", c_api::Access::kWrite);
    (void)c_api::dense_bytes(*dst, "the tensor to decode into");
    for (int32_t i = 0; i < dst->ndim; ++i) room *= dst->shape[i];
    if (begin < 0 || begin > end || end > elements || room != end - begin) {
      throw Error(TN_E_ARGUMENT, "elements " + std::to_string(begin) + " to " + std::to_string(end) + " of " +
                                     std::to_string(elements) + " cannot be decoded into a tensor of " +
                                     std::to_string(room));
    }
    c_api::with_workspace(
        t.session, workspace_of(t, coded->target, TN_QUANTIZER_DECODE, end - begin), [&](const tn_exec& exec) {
          check(api.decode(instance_of(t), &exec, &coded->target, coded->tensors.data(), begin, end, dst),
                t.spec.id + " cannot decode");
          t.session.stream.wait();
        });
  });
}

void tn_coded_free(tn_coded* coded) {
  delete coded;
}

uint64_t tn_coded_bytes(const tn_coded* coded) {
  uint64_t bytes = 0;
  if (coded) {
    for (const auto& component : coded->components) bytes += component.tensor->bytes;
  }
  return bytes;
}

int32_t tn_coded_component(tn_coded* coded, uint64_t i, const tn_component** info, tn_tensor** tensor) {
  return guard([&] {
    need(coded, "coded");
    if (i >= coded->components.size()) {
      throw Error(TN_E_NOT_FOUND, "there is no component " + std::to_string(i) + "; the code has " +
                                      std::to_string(coded->components.size()));
    }
    auto& component = *std::next(coded->components.begin(), static_cast<ptrdiff_t>(i));
    if (info) *info = &component.info;
    if (tensor) *tensor = &component.tensor->tensor;
  });
}
