#include "hosts/conformance/adapter_run.h"

#include <algorithm>
#include <set>

#include "hosts/conformance/check.h"
#include "sdk/dtype.h"
#include "tenon/region.h"

namespace tenon::conformance {
namespace {

struct Form {
  uint32_t role;
  const char* name;
  int64_t m, n;
};
constexpr Form kForms[] = {{TN_ROLE_Q, "self_attn.q_proj", 24, 24}, {TN_ROLE_K, "self_attn.k_proj", 8, 24},
                           {TN_ROLE_V, "self_attn.v_proj", 8, 24},  {TN_ROLE_O, "self_attn.o_proj", 24, 24},
                           {TN_ROLE_GATE, "mlp.gate_proj", 41, 24}, {TN_ROLE_UP, "mlp.up_proj", 41, 24},
                           {TN_ROLE_DOWN, "mlp.down_proj", 24, 41}, {TN_ROLE_O, "self_attn", 24, 24},
                           {TN_ROLE_DOWN, "mlp", 24, 24}};
constexpr size_t kFirstSublayer = 7;

std::vector<float> identity(int64_t n) {
  std::vector<float> w(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < n; ++i) w[static_cast<size_t>(i * (n + 1))] = 1;
  return w;
}

}  // namespace

// The frozen weight as an operator. Called from inside the plugin, so nothing here throws.
struct AdapterRun::Base {
  Bench& bench;
  Tensor& w;
  tn_base_linear table{};

  // owned: an adapter holds the weight, so there is no operator.
  Base(Bench& b, Tensor& weight, bool owned = false) : bench(b), w(weight) {
    table.struct_size = TN_SIZE_TO(tn_base_linear, bias), table.self = this, table.m = w.shape()[0], table.n = w.shape()[1];
    table.flags = owned ? TN_LINEAR_OWNED : 0;
    if (!owned) table.forward = forward, table.backward = backward, table.read_rows = read_rows;
  }
  static int32_t forward(void* self, const tn_tensor* x, double alpha, double beta, tn_tensor* y) {
    auto& b = *static_cast<Base*>(self);
    int64_t shape[2], strides[2];
    const tn_tensor w_t = transposed(*b.w.get(), shape, strides);
    return x->shape[0] == 0 ? int32_t{TN_OK} : multiply(b.bench, *x, w_t, alpha, beta, *y);
  }
  static int32_t backward(void* self, const tn_tensor* dy, double alpha, double beta, tn_tensor* dx) {
    auto& b = *static_cast<Base*>(self);
    return dy->shape[0] == 0 ? int32_t{TN_OK} : multiply(b.bench, *dy, *b.w.get(), alpha, beta, *dx);
  }
  static int32_t read_rows(void* self, int64_t begin, int64_t end, tn_tensor* out) {
    auto& b = *static_cast<Base*>(self);
    const int64_t n = b.table.n;
    if (begin < 0 || end < begin || end > b.table.m || !sdk::same(out->dtype, sdk::kF32)) {
      host()->error(host(), TN_E_ARGUMENT, "the battery reads rows of its weight in f32 and within the weight");
      return TN_E_ARGUMENT;
    }
    if (begin == end) return TN_OK;
    return b.bench.api->copy(b.bench.device, b.bench.stream, static_cast<char*>(out->data) + out->byte_offset,
                             static_cast<const float*>(b.w.data()) + begin * n,
                             static_cast<uint64_t>((end - begin) * n) * 4, TN_COPY_WITHIN);
  }
};

struct AdapterRun::Binding {
  struct Declared {
    std::string key;
    int32_t site;
    bool trainable, changes;
    std::vector<int64_t> shape;
    tn_dtype dtype;
  };
  size_t n_sites;
  std::vector<uint32_t> taken;
  std::vector<Declared> parameters;
  std::set<uint32_t> owned;
  std::string fault;

  static int32_t site(void* self, uint32_t id, uint32_t retention) {
    auto& b = *static_cast<Binding*>(self);
    if (id >= b.n_sites)
      return b.fault = "it took site " + std::to_string(id) + ", which does not exist", TN_E_ARGUMENT;
    if (retention == TN_RETAIN_UNDEFINED || retention > TN_RETAIN_ROWS)
      return b.fault = "it took a site with a retention that the ABI does not know", TN_E_ARGUMENT;
    if (std::find(b.taken.begin(), b.taken.end(), id) != b.taken.end())
      return b.fault = "it took site " + std::to_string(id) + " twice", TN_E_ARGUMENT;
    return b.taken.push_back(id), TN_OK;
  }
  static int32_t param(void* self, const tn_adapter_param* p) {
    auto& b = *static_cast<Binding*>(self);
    if (p->id != b.parameters.size()) return b.fault = "its parameter ids are not dense from 0", TN_E_ARGUMENT;
    if (!p->file_key || !*p->file_key) return b.fault = "a parameter has no file key", TN_E_ARGUMENT;
    if (p->ndim < 0 || p->ndim > 4 || p->site >= static_cast<int32_t>(b.n_sites))
      return b.fault = std::string("parameter ") + p->file_key + " has an impossible shape or site", TN_E_ARGUMENT;
    for (int32_t i = 0; i < p->ndim; ++i)
      if (p->shape[i] < 0 || p->shape[i] > 1 << 22)
        return b.fault = std::string("parameter ") + p->file_key + " has an impossible shape", TN_E_ARGUMENT;
    const uint32_t integers = p->flags & (TN_ADAPTER_PARAM_INT32 | TN_ADAPTER_PARAM_INT8);
    if (integers && (p->flags & TN_ADAPTER_PARAM_TRAINABLE))
      return b.fault = std::string("parameter ") + p->file_key + " is of integers and cannot train", TN_E_ARGUMENT;
    const bool trainable = p->flags & TN_ADAPTER_PARAM_TRAINABLE, changes = !trainable && (p->flags & TN_ADAPTER_PARAM_SAVED);
    b.parameters.push_back({p->file_key, p->site, trainable, changes, {p->shape, p->shape + p->ndim},
                            integers & TN_ADAPTER_PARAM_INT32 ? sdk::kI32 : integers ? sdk::kI8 : sdk::kF32});
    return TN_OK;
  }
  static int32_t own(void* self, uint32_t id, uint32_t) {
    auto& b = *static_cast<Binding*>(self);
    if (id >= b.n_sites) return b.fault = "it holds the weight of a site that does not exist", TN_E_ARGUMENT;
    return b.owned.insert(id), TN_OK;
  }
  static int32_t train(void* self, uint32_t role) {
    if (role == TN_ROLE_UNDEFINED || role > TN_ROLE_OTHER)
      return static_cast<Binding*>(self)->fault = "it trains parameters of a role that the ABI does not know", TN_E_ARGUMENT;
    return TN_OK;
  }
};

namespace {

constexpr int64_t kLateStep = 1000;  // past what adapters do in their first steps, such as choosing what to train

int32_t keep_input(void* self, uint32_t slot) {
  auto& s = *static_cast<AdapterRun::Saved*>(self);
  if (!s.may_save) return s.fault = "it saves although TN_CALL_SAVE is not set", TN_E_STATE;
  s.slots[slot].input = s.x.get();
  return TN_OK;
}

int32_t alloc_slot(void* self, uint32_t slot, int32_t ndim, const int64_t* shape, const tn_dtype* dtype,
                   tn_tensor** out) {
  auto& s = *static_cast<AdapterRun::Saved*>(self);
  if (!s.may_save) return s.fault = "it saves although TN_CALL_SAVE is not set", TN_E_STATE;
  if (s.slots.count(slot) && s.slots[slot].own)
    return s.fault = "it allocates slot " + std::to_string(slot) + " twice", TN_E_STATE;
  s.slots[slot].own = std::make_unique<Tensor>(*s.bench, "saved slot " + std::to_string(slot), *dtype,
                                               std::vector<int64_t>(shape, shape + ndim));
  s.slots[slot].own->fill(0xFF);
  *out = s.slots[slot].own->get();
  return TN_OK;
}

int32_t get_slot(void* self, uint32_t slot, const tn_saved** out) {
  auto& s = *static_cast<AdapterRun::Saved*>(self);
  const auto found = s.slots.find(slot);
  if (found == s.slots.end())
    return s.fault = "it asks for slot " + std::to_string(slot) + ", which the forward call did not save",
           TN_E_NOT_FOUND;
  Tensor* const tensor = found->second.own ? found->second.own.get() : found->second.input;
  found->second.view = {TN_SIZE_TO(tn_saved, row_weight), 0, tensor->get(), nullptr, nullptr};
  *out = &found->second.view;
  return TN_OK;
}

}  // namespace

AdapterRun::AdapterRun(Subject& subject, const Spec& spec, const char* config_json, bool longer)
    : bench_(subject.bench()), api_(subject.api<tn_adapter_api>()) {
  int32_t status = 0;
  instance_ = std::make_unique<Instance<tn_adapter_api, tn_adapter>>(api_, spec, status, config_json);
  if (status < 0) refused(status, "create");
  if (subject.plugin().extension<tn_region_api>(TN_EXT_REGION))
    throw NotApplicable{"the adapter runs the stack of blocks itself and takes no linear"};
  for (int block = 0; block < 2; ++block)
    for (const Form& f : kForms) paths_.push_back("model.layers." + std::to_string(block) + '.' + f.name);
  sites_.resize(paths_.size());
  std::vector<const tn_site*> list;
  for (size_t i = 0; i < sites_.size(); ++i) {
    const Form& f = kForms[i % std::size(kForms)];
    tn_site& s = *sites_[i].get(TN_SIZE_TO(tn_site, path), longer);
    const bool sublayer = i % std::size(kForms) >= kFirstSublayer;
    s.id = static_cast<uint32_t>(i), s.place = sublayer ? TN_PLACE_SUBLAYER : TN_PLACE_LINEAR, s.role = f.role,
    s.block = static_cast<int32_t>(i / std::size(kForms)), s.m = f.m, s.n = f.n, s.path = paths_[i].c_str();
    weights_.push_back(std::make_unique<Tensor>(bench_, "the frozen weight of " + paths_[i], sdk::kF32,
                                                std::vector<int64_t>{f.m, f.n}, normals(f.m * f.n, 500 + s.id, 0.2f)));
    if (sublayer) weights_.back()->set(identity(f.n));  // its base
    weights_.back()->seal();
    list.push_back(&s);
  }
  Binding binding{sites_.size(), {}, {}, {}, {}};
  Longer<tn_adapter_sink> sink;
  sink.value = {0, 0, &binding, Binding::site, Binding::param, Binding::own, Binding::train};
  status = api_.bind(instance_->get(), list.data(), list.size(), sink.get(TN_SIZE_TO(tn_adapter_sink, train), longer));
  expect(binding.fault.empty(), binding.fault);
  if (status < 0) refused(status, "bind");
  expect(!binding.taken.empty(), "bind succeeded without taking a site; it must answer TN_E_NOT_FOUND");
  taken_ = binding.taken, owned_ = binding.owned;
  std::set<std::string> keys;
  for (const auto& p : binding.parameters) {
    expect(keys.insert(p.key).second, "two parameters have the file key " + p.key);
    parameters_.push_back(
        {p.key, p.site, p.trainable, p.changes, std::make_unique<Tensor>(bench_, "parameter " + p.key, p.dtype, p.shape),
         p.trainable ? std::make_unique<Tensor>(bench_, "the gradient of " + p.key, sdk::kF32, p.shape) : nullptr});
  }
}

AdapterRun::~AdapterRun() = default;

std::vector<float> AdapterRun::weight(uint32_t site) const {
  return weights_[site]->floats();
}

std::vector<AdapterRun::Parameter*> AdapterRun::trained(uint32_t site) {
  std::vector<Parameter*> out;
  for (Parameter& p : parameters_)
    if (p.trainable && (p.site < 0 || p.site == static_cast<int32_t>(site))) out.push_back(&p);
  return out;
}

void AdapterRun::initialise(uint8_t poison) {
  const Exec exec(bench_, 256 << 10, poison);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& p = parameters_[i];
    Base base(bench_, *weights_[p.site >= 0 ? static_cast<size_t>(p.site) : 0]);
    const tn_rng rng{7, static_cast<uint32_t>(100 + i), 3};
    p.value->fill(poison);
    must(api_.init_param(instance_->get(), exec.get(), static_cast<uint32_t>(i), p.site >= 0 ? &base.table : nullptr,
                         &rng, p.value->get()),
         "init_param of " + p.key);
    bench_.expect_intact("init_param");
    expect(!sdk::same(p.value->dtype(), sdk::kF32) || all_finite(p.value->floats()), "the starting value of " + p.key + " is not finite");
  }
}

void AdapterRun::randomise() {
  for (size_t i = 0; i < parameters_.size(); ++i)
    if (parameters_[i].trainable)
      parameters_[i].value->set(plus(parameters_[i].value->floats(), 1,
                                     normals(parameters_[i].value->count(), static_cast<uint32_t>(300 + i), 0.2f)));
}

void AdapterRun::clear_gradients() {
  for (Parameter& p : parameters_)
    if (p.grad) p.grad->fill(0);
}

std::vector<Longer<tn_param_view>> AdapterRun::views(uint32_t site, bool gradients, bool longer) {
  std::vector<Longer<tn_param_view>> out;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& p = parameters_[i];
    if (p.site >= 0 && p.site != static_cast<int32_t>(site)) continue;
    out.emplace_back();
    out.back().value = {0, static_cast<uint32_t>(i), p.value->get(), gradients && p.grad ? p.grad->get() : nullptr};
    out.back().get(TN_SIZE_TO(tn_param_view, grad), longer);
  }
  return out;
}

uint64_t AdapterRun::workspace(uint32_t site, int64_t rows, tn_dtype dtype, bool backward) {
  Longer<tn_estimate> e;
  must(api_.estimate(instance_->get(), bench_.api, bench_.device, site, rows, &dtype, backward,
                     e.get(TN_SIZE_TO(tn_estimate, bytes_moved), false)),
       "estimate");
  expect(e.intact(), "estimate wrote past the end of tn_estimate");
  return e.value.workspace_bytes;
}

std::vector<float> AdapterRun::forward(uint32_t site, const std::vector<float>& x, Saved* saved,
                                       const AdapterCall& options, tn_dtype dtype, bool without_y) {
  const int64_t rows = static_cast<int64_t>(x.size()) / n(site);
  Saved unused;
  Saved& keep = saved ? *saved : unused;
  keep.bench = &bench_;
  keep.slots.clear();
  keep.may_save = saved && (options.flags & TN_CALL_SAVE);
  keep.x = std::make_unique<Tensor>(bench_, "x", dtype, std::vector<int64_t>{rows, n(site)}, x);
  keep.x->seal();
  Tensor y(bench_, "y", dtype, {rows, m(site)});
  y.fill(0xFF);
  auto params = views(site, false, options.longer);
  std::vector<const tn_param_view*> list;
  for (auto& p : params) list.push_back(&p.value);
  for (Parameter& p : parameters_)
    if (!p.changes || !(options.flags & TN_CALL_TRAIN)) p.value->seal();
  Base base(bench_, *weights_[site], owned_.contains(site));
  const Exec exec(bench_, workspace(site, rows, dtype, false), options.poison);
  const tn_saver saver{TN_SIZE_TO(tn_saver, get), 0, &keep, keep_input, alloc_slot, get_slot};
  Longer<tn_adapter_call> c;
  tn_adapter_call& call = *c.get(TN_SIZE_TO(tn_adapter_call, rng), options.longer);
  call.flags = saved ? options.flags : options.flags & ~uint32_t{TN_CALL_SAVE}, call.exec = exec.get(),
  call.saver = &saver, call.params = list.data(), call.n_params = list.size();
  call.step = kLateStep, call.row_begin = options.row_begin, call.scale = options.scale, call.rng = {7, site, 11};
  const int32_t status =
      api_.forward(instance_->get(), site, &call, &base.table, keep.x->get(), without_y ? nullptr : y.get());
  expect(keep.fault.empty(), keep.fault);
  must(status, "forward");
  bench_.expect_intact("forward");
  for (Parameter& p : parameters_) p.value->unseal();
  return without_y ? std::vector<float>() : y.floats();
}

std::vector<float> AdapterRun::backward(uint32_t site, const std::vector<float>& dy, Saved& saved,
                                        const AdapterCall& options, double beta, const std::vector<float>* dx_before,
                                        tn_dtype dtype) {
  const int64_t rows = static_cast<int64_t>(dy.size()) / m(site);
  Tensor gradient(bench_, "dy", dtype, {rows, m(site)}, dy), dx(bench_, "dx", dtype, {rows, n(site)});
  gradient.seal();
  dx.fill(0xFF);
  if (dx_before) dx.set(*dx_before);
  auto params = views(site, true, options.longer);
  std::vector<const tn_param_view*> list;
  for (auto& p : params) list.push_back(&p.value);
  for (Parameter& p : parameters_)
    if (!p.changes) p.value->seal();
  Base base(bench_, *weights_[site], owned_.contains(site));
  const Exec exec(bench_, workspace(site, rows, dtype, true), options.poison);
  const tn_saver saver{TN_SIZE_TO(tn_saver, get), 0, &saved, keep_input, alloc_slot, get_slot};
  Longer<tn_adapter_call> c;
  tn_adapter_call& call = *c.get(TN_SIZE_TO(tn_adapter_call, rng), options.longer);
  call.flags = (options.flags & ~uint32_t{TN_CALL_SAVE}) | TN_CALL_NEED_DX, call.exec = exec.get(), call.saver = &saver,
  call.params = list.data(), call.n_params = list.size();
  call.step = kLateStep, call.row_begin = options.row_begin, call.scale = options.scale, call.rng = {7, site, 11};
  const int32_t status = api_.backward(instance_->get(), site, &call, &base.table, gradient.get(), beta, dx.get());
  expect(saved.fault.empty(), saved.fault);
  must(status, "backward");
  bench_.expect_intact("backward");
  for (Parameter& p : parameters_) p.value->unseal();
  return dx.floats();
}

int32_t AdapterRun::merge(uint32_t site, int64_t begin, int64_t end, std::vector<float>& w) {
  Tensor rows(bench_, "merged rows", sdk::kF32, {end - begin, n(site)}, w);
  auto params = views(site, false, false);
  std::vector<const tn_param_view*> list;
  for (auto& p : params) list.push_back(&p.value);
  const Exec exec(bench_, workspace(site, end - begin, sdk::kF32, false));
  const int32_t status =
      api_.merge_rows(instance_->get(), exec.get(), site, list.data(), list.size(), begin, end, rows.get());
  bench_.expect_intact("merge_rows");
  w = rows.floats();
  return status;
}

std::string AdapterRun::config() {
  std::string text;
  const tn_sink sink{TN_SIZE_TO(tn_sink, write), 0, &text, [](void* self, const void* bytes, uint64_t n) -> int32_t {
                       static_cast<std::string*>(self)->append(static_cast<const char*>(bytes), n);
                       return TN_OK;
                     }};
  must(api_.write_config(instance_->get(), &sink), "write_config");
  return text;
}

}  // namespace tenon::conformance
