#include "hosts/conformance/attention_run.h"

#include <algorithm>

#include "hosts/conformance/check.h"

namespace tenon::conformance {
namespace {

constexpr int64_t kGap = 8;  // elements between rows of a wide tensor
constexpr tn_rng kRng = {7, 3, 1};

bool is_gradient(uint32_t port) {
  return port == TN_PORT_DQ || port == TN_PORT_DK || port == TN_PORT_DV;
}

bool is_state(uint32_t port) {
  return port == TN_PORT_STATE_IN || port == TN_PORT_STATE_OUT;
}

}  // namespace

AttentionRun::AttentionRun(Subject& subject, const Spec& spec, const AttentionCase& c)
    : c_(c), bench_(subject.bench()), plugin_(subject.plugin()), api_(subject.api<tn_attention_api>()) {
  if (api_.placement != TN_PLACEMENT_CORE) throw NotApplicable{"it owns its projections and is no kernel on q, k and v"};
  Longer<tn_attention_config> config;
  config.value = {0,
                  static_cast<uint32_t>(c.heads),
                  static_cast<uint32_t>(c.kv_heads),
                  static_cast<uint32_t>(c.d),
                  static_cast<uint32_t>(c.e),
                  0,
                  1,
                  0,
                  static_cast<uint32_t>(c.heads),
                  0,
                  0,
                  c.softcap};
  int32_t status = 0;
  instance_ = std::make_unique<Instance<tn_attention_api, tn_attention>>(
      api_, spec, status, config.get(TN_SIZE_TO(tn_attention_config, softcap), c.longer));
  if (status < 0) refused(status, "create");
  status = api_.plan(self(), bench_.api, bench_.device, &shape(),
                     plan_.get(TN_SIZE_TO(tn_attention_plan, backward), c.longer));
  if (status < 0) refused(status, "plan");
  expect(plan_.intact(), "plan wrote past the end of tn_attention_plan as this ABI knows it");
  const std::vector<int64_t> q{c.batch, c.t_q, c.heads, c.d}, k{c.batch, c.t_k, c.kv_heads, c.d},
      v{c.batch, c.t_k, c.kv_heads, c.e}, o{c.batch, c.t_q, c.heads, c.e};
  add(TN_PORT_Q, "q", c.dtype, q, c.wide_rows, c.amplitude);
  add(TN_PORT_K, "k", c.dtype, k, c.wide_rows, c.amplitude);
  add(TN_PORT_V, "v", c.dtype, v, c.wide_rows, 1);
  add(TN_PORT_O, "o", c.flags & TN_ATTENTION_PARTIAL ? sdk::kF32 : c.dtype, o, false, 1);
  add(TN_PORT_LSE, "lse", sdk::kF32, {c.batch, c.heads, c.t_q}, false, 1);
  add(TN_PORT_DO, "do", c.dtype, o, false, 1);
  add(TN_PORT_DQ, "dq", c.dtype, q, c.wide_rows, 1);
  add(TN_PORT_DK, "dk", c.dtype, k, c.wide_rows, 1);
  add(TN_PORT_DV, "dv", c.dtype, v, c.wide_rows, 1);
}

const tn_attention_shape& AttentionRun::shape() {
  terms_.clear();
  for (const tn_mask_term& t : c_.mask) terms_.push_back(&t);
  for (auto& column : columns_) column.clear();
  for (const sdk::Segment& s : c_.segments) {
    const int64_t fields[6] = {s.q_begin, s.q_len, s.k_begin, s.k_len, s.q_pos, s.k_pos};
    for (int i = 0; i < 6; ++i) columns_[i].push_back(fields[i]);
  }
  segments_ = {TN_SIZE_TO(tn_segments, k_pos),
               static_cast<uint32_t>(c_.segments.size()),
               columns_[0].data(),
               columns_[1].data(),
               columns_[2].data(),
               columns_[3].data(),
               columns_[4].data(),
               columns_[5].data()};
  tn_attention_shape& s = *shape_.get(TN_SIZE_TO(tn_attention_shape, state_tokens), c_.longer);
  s.phase = c_.phase, s.flags = c_.flags, s.n_mask = static_cast<uint32_t>(terms_.size()), s.batch = c_.batch,
  s.t_q = c_.t_q, s.t_k = c_.t_k, s.q_pos = c_.q_pos, s.k_pos = c_.k_pos;
  s.mask = terms_.data(), s.segments = c_.segments.empty() ? nullptr : &segments_, s.dtype = c_.dtype,
  s.state_tokens = c_.state_tokens;
  return s;
}

// A wide tensor has its rows [.., H, d] inside rows of H · d + kGap elements, whose gaps are part of the seal.
void AttentionRun::add(uint32_t port, const char* name, tn_dtype dtype, std::vector<int64_t> shape, bool wide,
                       float scale) {
  std::vector<int64_t> strides(shape.size());
  int64_t n = 1;
  for (size_t i = shape.size(); i-- > 0;) strides[i] = n, n *= shape[i];
  if (wide) {
    strides[1] = shape[2] * shape[3] + kGap, strides[0] = strides[1] * shape[1];
    n = strides[0] * shape[0];
  }
  tensors_[port] = std::make_shared<Tensor>(bench_, std::string("port ") + name, dtype, std::vector<int64_t>{n});
  shapes_[port] = std::move(shape), strides_[port] = std::move(strides);
  views_[port] = {
      tensors_[port]->data(), bench_.id, static_cast<int32_t>(shapes_[port].size()), dtype, shapes_[port].data(),
      strides_[port].data(),  0};
  int64_t count = 1;
  for (const int64_t s : shapes_[port]) count *= s;
  set(port, normals(count, 40 + port, scale));
}

std::vector<float> AttentionRun::values(uint32_t port) {
  const std::vector<float> all = at(port).floats();
  const std::vector<int64_t>&shape = shapes_[port], &strides = strides_[port];
  if (shape.size() != 4) return all;
  std::vector<float> out;
  const int64_t row = shape[2] * shape[3];
  for (int64_t b = 0; b < shape[0]; ++b)
    for (int64_t t = 0; t < shape[1]; ++t)
      out.insert(out.end(), all.begin() + b * strides[0] + t * strides[1],
                 all.begin() + b * strides[0] + t * strides[1] + row);
  return out;
}

void AttentionRun::set(uint32_t port, const std::vector<float>& values) {
  const std::vector<int64_t>&shape = shapes_[port], &strides = strides_[port];
  if (shape.size() != 4) return at(port).set(values);
  std::vector<float> all(static_cast<size_t>(at(port).count()), 123);
  const int64_t row = shape[2] * shape[3];
  for (int64_t b = 0; b < shape[0]; ++b)
    for (int64_t t = 0; t < shape[1]; ++t)
      std::copy_n(values.begin() + (b * shape[1] + t) * row, row, all.begin() + b * strides[0] + t * strides[1]);
  at(port).set(all);
}

int32_t AttentionRun::call(bool backward, bool accumulate) {
  std::vector<Longer<tn_port_bind>> binds(views_.size());
  std::vector<const tn_port_bind*> list;
  for (auto& [port, view] : views_) {
    if (!backward && port > TN_PORT_LSE && !is_state(port)) continue;
    tn_port_bind& b = *binds[list.size()].get(TN_SIZE_TO(tn_port_bind, tensor), c_.longer);
    b.port = port, b.flags = accumulate && is_gradient(port) ? uint32_t{TN_BIND_ACCUMULATE} : 0u, b.tensor = &view;
    list.push_back(&b);
    const bool written = backward ? is_gradient(port) : port == TN_PORT_O || port == TN_PORT_LSE || is_state(port);
    if (!written) at(port).seal();
  }
  const Exec exec(bench_, backward ? plan().backward.workspace_bytes : plan().forward.workspace_bytes, c_.poison);
  Longer<tn_attention_call> call;
  call.value = {0, 0, exec.get(), c_.dropout, kRng, 1};
  call.get(TN_SIZE_TO(tn_attention_call, step), c_.longer);
  const int32_t status =
      (backward ? api_.backward : api_.forward)(self(), &call.value, &shape(), list.data(), list.size());
  bench_.expect_intact(backward ? "backward" : "forward");
  for (auto& [port, tensor] : tensors_) tensor->unseal();
  return status;
}

bool AttentionRun::try_forward() {
  return accepted(call(false, false), "forward");
}
void AttentionRun::bind_state(uint32_t port, std::shared_ptr<Tensor> state) {
  tensors_[port] = std::move(state);
  views_[port] = *tensors_[port]->get();
}
void AttentionRun::forward() {
  must(call(false, false), "forward");
}
void AttentionRun::backward(bool accumulate) {
  must(call(true, accumulate), "backward");
}

sdk::DenseAttention AttentionRun::dense() {
  sdk::DenseAttention a{c_.batch, c_.t_q, c_.t_k, c_.heads, c_.kv_heads, c_.d, c_.e, 0, c_.softcap};
  const auto widen = [](const std::vector<float>& x) { return std::vector<double>(x.begin(), x.end()); };
  a.mask = c_.mask, a.segments = c_.segments, a.q_pos = c_.q_pos, a.k_pos = c_.k_pos, a.dropout = c_.dropout,
  a.rng = kRng;
  form_ = plugin_.extension<tn_attention_form>(TN_EXT_ATTENTION_FORM);
  if (form_) {
    must(form_->form(self(), &a.form, &a.epsilon), "form");
    expect(a.form >= TN_FORM_SOFTMAX && a.form <= TN_FORM_LINEAR_RMS,
           "the form of the kernel is one that the ABI does not know");
    a.factor = [this](int64_t h, int64_t i, int64_t j) {
      double x = 0;
      must(form_->factors(self(), static_cast<uint32_t>(h), i, j, 1, &x), "factors");
      return x;
    };
  }
  a.q = widen(values(TN_PORT_Q)), a.k = widen(values(TN_PORT_K)), a.v = widen(values(TN_PORT_V));
  return a;
}

}  // namespace tenon::conformance
