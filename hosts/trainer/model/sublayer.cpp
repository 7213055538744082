#include "hosts/trainer/model/sublayer.h"

#include <algorithm>
#include <list>

#include "core/error.h"
#include "core/plugins/answer.h"
#include "hosts/trainer/model/handles.h"
#include "hosts/trainer/model/saver.h"

namespace tenon::trainer {
// tn_mixer_sink.
struct SublayerMixer::Binding {
  SublayerMixer* mixer;
  Engine* engine;
  const OpenCore* open;

  static int32_t keep(void* self, uint32_t role) {
    auto& b = *static_cast<Binding*>(self);
    return answer([&] {
      if (role < TN_ROLE_Q || role > TN_ROLE_O) throw Error(TN_E_ARGUMENT, "a mixer can keep the linears q, k, v and o of its layer, and no others");
      b.mixer->kept_.push_back(role);
    });
  }
  static int32_t param(void* self, const tn_mixer_param* p) {
    auto& b = *static_cast<Binding*>(self);
    return answer([&] {
      if (p->id != b.mixer->declared_.size()) throw Error(TN_E_ARGUMENT, "a mixer declared parameter ids that are not dense from 0");
      if (p->ndim < 1 || p->ndim > 2 || p->shape[0] < 1 || (p->ndim == 2 && p->shape[1] < 1))
        throw Error(TN_E_ARGUMENT, std::string("a mixer declared the parameter ") + p->key + " in a shape that is neither a vector nor a matrix");
      b.mixer->declared_.push_back({*p, p->key});
    });
  }
  static int32_t core(void* self, const char* spec, const tn_attention_config* config, int64_t window, uint32_t* id) {
    auto& b = *static_cast<Binding*>(self);
    return answer([&] {
      *id = static_cast<uint32_t>(b.mixer->cores_.size());
      b.mixer->cores_.push_back((*b.open)(spec, *config, window));
    });
  }
};

// The functions of tn_mixer_ops.
struct SublayerMixer::Table {
  const SublayerMixer& mixer;
  Engine& engine;
  const MixerCall& call;
  const ReadRows* read;
  TensorHandles handles{};

  static Table& of(void* self) { return *static_cast<Table*>(self); }
  static int32_t alloc(void* self, int32_t ndim, const int64_t* shape, const tn_dtype* dtype, tn_tensor** out) {
    Table& t = of(self);
    return answer([&] { *out = t.handles.hold(t.engine.empty(Category::kActivations, *dtype, shape, ndim)); });
  }
  static void free(void* self, tn_tensor* tensor) { of(self).handles.free(tensor); }
  static int32_t gemm(void* self, const tn_tensor* a, const tn_tensor* b, double alpha, double beta, tn_tensor* c) {
    Table& t = of(self);
    return answer([&] { t.engine.gemm(t.handles.at(a), t.handles.at(b), t.handles.at(c), alpha, beta); });
  }
  static int32_t axpby(void* self, double alpha, const tn_tensor* x, double beta, tn_tensor* y) {
    Table& t = of(self);
    return answer([&] { t.engine.axpby(alpha, t.handles.at(x), beta, t.handles.at(y)); });
  }
  size_t slot(uint32_t role) const {
    if (!mixer.keeps(role)) throw Error(TN_E_STATE, "a mixer called a linear that it has not kept");
    return role - TN_ROLE_Q;
  }
  static int32_t linear(void* self, uint32_t role, const tn_tensor* x, tn_tensor* y) {
    Table& t = of(self);
    return answer([&] {
      const size_t i = t.slot(role);
      t.call.linears[i].forward(t.engine, t.call.linear, t.handles.at(x), t.handles.at(y), t.call.saved_linears ? &t.call.saved_linears[i] : nullptr);
    });
  }
  static int32_t linear_backward(void* self, uint32_t role, const tn_tensor* dy, const tn_tensor* x, double beta, tn_tensor* dx) {
    Table& t = of(self);
    return answer([&] {
      const size_t i = t.slot(role);
      const Tensor to = dx ? t.handles.at(dx) : Tensor();
      t.call.linears[i].backward(t.engine, t.call.linear, t.handles.at(dy), t.handles.at(x), dx ? &to : nullptr, beta, &t.call.saved_linears[i]);
    });
  }
  const AttentionLayer& opened(uint32_t id) const {
    if (id >= mixer.cores_.size()) throw Error(TN_E_ARGUMENT, "a mixer ran an attention core that it has not opened");
    return mixer.cores_[id];
  }
  static int32_t core(void* self, uint32_t id, const tn_tensor* q, const tn_tensor* k, const tn_tensor* v, tn_tensor* o, tn_tensor* lse) {
    Table& t = of(self);
    return answer([&] {
      const Tensor tq = t.handles.at(q), tk = t.handles.at(k), tl = lse ? t.handles.at(lse) : Tensor();
      const bool decodes = t.call.decode != nullptr;
      const int64_t length = decodes ? tq.dim(0) : t.call.length, keys = decodes ? tk.dim(0) : t.call.length;
      t.opened(id).forward(t.engine, decodes ? 1 : t.call.sequences, length, keys, keys - length, decodes ? nullptr : t.call.segments, tq, tk,
                                    t.handles.at(v), t.handles.at(o), lse ? &tl : nullptr);
    });
  }
  static int32_t core_backward(void* self, uint32_t id, const tn_tensor* q, const tn_tensor* k, const tn_tensor* v, const tn_tensor* o,
                               const tn_tensor* lse, const tn_tensor* d_o, tn_tensor* dq, tn_tensor* dk, tn_tensor* dv) {
    Table& t = of(self);
    return answer([&] {
      const auto at = [&](const tn_tensor* x) { return t.handles.at(x); };
      t.opened(id).backward(t.engine, t.call.sequences, t.call.length, t.call.segments, at(q), at(k), at(v), at(o), at(lse), at(d_o), at(dq),
                                     at(dk), at(dv));
    });
  }
  static int32_t read_rows(void* self, uint32_t role, int64_t begin, int64_t end, tn_tensor* out) {
    Table& t = of(self);
    return answer([&] {
      if (!t.read) throw Error(TN_E_STATE, "a mixer read a weight of the model outside of start(), or where a file holds its parameters");
      (*t.read)(role, begin, end, t.handles.at(out));
    });
  }
};

SublayerMixer::SublayerMixer(Engine& engine, const tn_attention_api* api, const tn_mixer_api* mixer, tn_attention* self, const tn_mixer_layer& layer,
                             const OpenCore& open)
    : api_(api), mixer_(mixer), self_(self), hidden_(layer.hidden) {
  Binding binding{this, &engine, &open};
  const tn_mixer_sink sink{sizeof(tn_mixer_sink), 0, &binding, Binding::keep, Binding::param, Binding::core};
  check(mixer_->bind(self_, &layer, &sink), "binding a mixer");
}

bool SublayerMixer::keeps(uint32_t role) const { return std::find(kept_.begin(), kept_.end(), role) != kept_.end(); }

bool SublayerMixer::trains() const {
  return std::any_of(parameters.begin(), parameters.end(), [](const Parameter* p) { return p->trainable; });
}

void SublayerMixer::run(Engine& engine, const MixerCall& call, int64_t rows, bool gradients, const ReadRows* read,
                        const std::function<int32_t(const tn_mixer_ops*, Table&)>& body) const {
  std::list<Tensor> values;
  std::list<Tensor::Ref> refs;
  std::list<tn_param_view> views;
  std::vector<const tn_param_view*> pointers;
  for (uint32_t id = 0; id < parameters.size(); ++id) {
    Parameter& p = *parameters[id];
    tn_tensor* grad = nullptr;
    if (gradients && p.trainable) {
      if (p.wgrad || p.tapped)
        throw Error(TN_E_CONFLICT, p.name + " gets its gradient from the mixer, and the optimizer wants to see the rows behind it; use another optimizer for it");
      grad = &refs.emplace_back(p.open_zeroed_gradient(engine).ref()).t;
    }
    values.push_back(p.seen(engine));
    tn_tensor* value = &refs.emplace_back(values.back().ref()).t;
    pointers.push_back(&views.emplace_back(tn_param_view{sizeof(tn_param_view), id, value, grad}));
  }
  const std::vector<int64_t> zeros(call.segments ? call.segments->begin.size() : 0);
  tn_segments segments{};
  if (call.segments) {
    const int64_t *b = call.segments->begin.data(), *n = call.segments->length.data();
    segments = {sizeof(tn_segments), static_cast<uint32_t>(zeros.size()), b, n, b, n, zeros.data(), zeros.data()};
  }
  Table table{*this, engine, call, read};
  Saver saver{&engine, call.saved, nullptr, nullptr, {}};
  const tn_saver saver_table = saver.table();
  const tn_exec exec = engine.exec(nullptr, 0);
  const Tensor::Ref positions = call.positions.ref();
  const Tensor::Ref state = call.decode ? call.decode->bytes.ref() : Tensor::Ref{};
  const uint32_t flags = (engine.dry() ? uint32_t{TN_MIXER_PLAN} : 0u) | (call.saved ? uint32_t{TN_MIXER_SAVE} : 0u) |
                         (call.decode ? uint32_t{TN_MIXER_DECODE} : 0u);
  const tn_mixer_ops ops{sizeof(tn_mixer_ops), flags, &table, &exec, call.saved ? &saver_table : nullptr, pointers.data(), pointers.size(), rows, hidden_,
                         call.sequences, call.length, call.segments ? &segments : nullptr, &positions.t, engine.compute(), {}, call.past,
                         call.decode ? &state.t : nullptr,
                         Table::alloc, Table::free, Table::gemm, Table::axpby, Table::linear, Table::linear_backward, Table::core, Table::core_backward,
                         Table::read_rows};
  check(body(&ops, table), "running a mixer");
}

void SublayerMixer::start(Engine& engine, const tn_rng& rng, bool buffers_only, const ReadRows& read) const {
  MixerCall call;
  run(engine, call, 0, false, buffers_only ? nullptr : &read,
      [&](const tn_mixer_ops* ops, Table&) { return mixer_->start(self_, ops, &rng, buffers_only ? 1 : 0); });
}

void SublayerMixer::forward(Engine& engine, const MixerCall& call, const Tensor& x, const Tensor& y) const {
  run(engine, call, x.dim(0), false, nullptr,
      [&](const tn_mixer_ops* ops, Table& t) { return mixer_->forward(self_, ops, t.handles.hold(x), t.handles.hold(y)); });
}

void SublayerMixer::backward(Engine& engine, const MixerCall& call, const Tensor& x, const Tensor& dy, const Tensor* dx) const {
  run(engine, call, x.dim(0), true, nullptr, [&](const tn_mixer_ops* ops, Table& t) {
    return mixer_->backward(self_, ops, t.handles.hold(x), t.handles.hold(dy), dx ? t.handles.hold(*dx) : nullptr);
  });
}

DecodeState SublayerMixer::start_sequence(Engine& engine, int64_t tokens) const {
  tn_attention_state info{sizeof(tn_attention_state)};
  const tn_dtype dtype = engine.compute();
  check(api_->state(self_, &dtype, tokens, &info), "asking a mixer for its decode state");
  DecodeState s;
  s.kind = info.kind, s.tokens = tokens;
  s.bytes = engine.zeros(Category::kActivations, kU8, {static_cast<int64_t>(info.bytes)});
  return s;
}

}  // namespace tenon::trainer
