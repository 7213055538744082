#include "hosts/trainer/model/region.h"

#include <list>

#include "core/error.h"
#include "core/plugins/answer.h"

namespace tenon::trainer {

// The functions of tn_region_ops.
struct RegionPass::Table {
  template <class Body>
  static int32_t guarded(void* self, Body&& body) {
    return answer([&] { body(*static_cast<RegionPass*>(self)); });
  }
  static int32_t alloc(void* self, int32_t ndim, const int64_t* shape, const tn_dtype* dtype, tn_tensor** out) {
    return guarded(self, [&](RegionPass& p) { *out = p.hold(p.engine_.empty(Category::kActivations, *dtype, shape, ndim)); });
  }
  static void free(void* self, tn_tensor* tensor) { static_cast<RegionPass*>(self)->handles_.free(tensor); }
  static int32_t gemm(void* self, const tn_tensor* a, const tn_tensor* b, double alpha, double beta, tn_tensor* c) {
    return guarded(self, [&](RegionPass& p) { p.engine_.gemm(p.at(a), p.at(b), p.at(c), alpha, beta); });
  }
  static int32_t axpby(void* self, double alpha, const tn_tensor* x, double beta, tn_tensor* y) {
    return guarded(self, [&](RegionPass& p) { p.engine_.axpby(alpha, p.at(x), beta, p.at(y)); });
  }
  static int32_t norm(void* self, const tn_tensor* x, const tn_tensor* gain, tn_tensor* y, tn_tensor* rstd) {
    return guarded(self, [&](RegionPass& p) {
      const Tensor statistics = rstd ? p.at(rstd) : Tensor();
      p.engine_.rms_norm(p.at(x), gain ? p.at(gain) : p.stack_.final_norm->value, p.stack_.norm_eps, p.at(y), rstd ? &statistics : nullptr);
    });
  }
  static int32_t norm_backward(void* self, const tn_tensor* dy, const tn_tensor* x, const tn_tensor* gain, const tn_tensor* rstd, double beta,
                               tn_tensor* dx, tn_tensor* dgain) {
    return guarded(self, [&](RegionPass& p) {
      Parameter& own = *p.stack_.final_norm;
      Tensor gradient;
      if (dgain)
        gradient = p.at(dgain);
      else if (!gain && own.trainable)
        gradient = own.open_zeroed_gradient(p.engine_);
      p.engine_.rms_norm_backward(p.at(dy), p.at(x), gain ? p.at(gain) : own.value, p.at(rstd), beta, p.at(dx), gradient ? &gradient : nullptr);
    });
  }
  static int32_t block_forward(void* self, uint32_t block, uint32_t part, const tn_tensor* x, tn_tensor** y, uint64_t* token) {
    return guarded(self, [&](RegionPass& p) {
      if (block >= p.stack_.blocks.size() || part < TN_BLOCK_WHOLE || part > TN_BLOCK_MLP) throw Error(TN_E_ARGUMENT, "an adapter called a block that does not exist");
      const TransformerBlock& b = *p.stack_.blocks[block];
      const Tensor input = p.at(x);
      if (p.flags_ & TN_REGION_DECODE) {
        *y = p.hold(p.decode(b, block, part, input));
        return;
      }
      Kept kept{&b, part, {}};
      SavedBlock* saved = token ? &kept.saved : nullptr;
      Pass pass = p.pass_;
      if (part != TN_BLOCK_WHOLE) pass.memory.checkpointing = Checkpointing::kNone, pass.memory.block_policies.clear(), pass.memory.stream_rows = 0;
      pass.train = (p.flags_ & TN_REGION_SAVE) != 0;  // whether or not this call keeps anything: dropout is that of the call that does
      *y = p.hold(part == TN_BLOCK_WHOLE ? b.forward(p.engine_, pass, input, saved)
                  : part == TN_BLOCK_ATTENTION ? b.attention_half(p.engine_, pass, input, saved)
                                               : b.mlp_half(p.engine_, pass, input, saved));
      if (!token) return;
      *token = p.next_++;
      p.kept_.emplace(*token, std::move(kept));
    });
  }
  static int32_t block_backward(void* self, uint64_t token, tn_tensor* d) {
    return guarded(self, [&](RegionPass& p) {
      const auto found = p.kept_.find(token);
      if (found == p.kept_.end() || !p.ready_) throw Error(TN_E_STATE, "an adapter ran a block backward that it had not run forward");
      Kept kept = std::move(found->second);
      p.kept_.erase(found);
      Tensor gradient = p.at(d);
      Pass pass = p.pass_;
      if (kept.part == TN_BLOCK_WHOLE)
        kept.block->backward(p.engine_, pass, kept.saved, gradient, true, *p.ready_);
      else if (kept.part == TN_BLOCK_ATTENTION)
        kept.block->attention_half_backward(p.engine_, pass, kept.saved, gradient, *p.ready_);
      else
        kept.block->mlp_half_backward(p.engine_, pass, kept.saved, gradient, *p.ready_);
    });
  }
};

RegionPass::RegionPass(Engine& engine, const RegionStack& stack, const Pass& pass, uint32_t flags)
    : engine_(engine), stack_(stack), pass_(pass), flags_(flags | (engine.dry() ? uint32_t{TN_REGION_PLAN} : 0u)) {}

Tensor RegionPass::decode(const TransformerBlock& b, uint32_t block, uint32_t part, const Tensor& x) {
  if (part == TN_BLOCK_MLP) return b.mlp_half(engine_, pass_, x, nullptr);
  const Tensor middle = b.decode_attention(engine_, pass_, x, stack_.cached, stack_.states->at(block));
  return part == TN_BLOCK_WHOLE ? b.mlp_half(engine_, pass_, middle, nullptr) : middle;
}

void RegionPass::run(bool gradients, const std::function<int32_t(const tn_region_ops*)>& call) {
  Adapter& a = *stack_.adapter;
  std::list<Tensor> values;
  std::list<Tensor::Ref> refs;
  std::list<tn_param_view> views;
  std::vector<const tn_param_view*> pointers;
  for (uint32_t id = 0; id < a.parameters.size(); ++id) {
    Parameter& p = *a.parameters[id];
    tn_tensor* grad = gradients && p.trainable ? &refs.emplace_back(p.open_zeroed_gradient(engine_).ref()).t : nullptr;
    tn_tensor* value = &refs.emplace_back(values.emplace_back(p.seen(engine_)).ref()).t;
    pointers.push_back(&views.emplace_back(tn_param_view{sizeof(tn_param_view), id, value, grad}));
  }
  const tn_exec exec = engine_.exec(nullptr, 0);
  const tn_region_ops ops{sizeof(tn_region_ops), flags_, this, &exec, pointers.data(), pointers.size(), pass_.rows(), stack_.hidden, engine_.compute(),
                          Table::alloc, Table::free, Table::gemm, Table::axpby, Table::norm, Table::norm_backward, Table::block_forward,
                          Table::block_backward, pass_.call.random(a, 0)};
  check(call(&ops), "running a region");
}

Tensor RegionPass::forward(const Tensor& x) {
  const Adapter& a = *stack_.adapter;
  const Tensor y = engine_.empty(Category::kActivations, engine_.compute(), {x.dim(0), stack_.hidden});
  tn_tensor *in = hold(x), *out = hold(y);
  run(false, [&](const tn_region_ops* ops) { return a.region->forward(a.self, ops, in, out); });
  Table::free(this, in), Table::free(this, out);
  return y;
}

Tensor RegionPass::backward(const Tensor& dy, bool want_dx, const GradientReady& ready) {
  const Adapter& a = *stack_.adapter;
  Tensor dx;
  if (want_dx) dx = engine_.empty(Category::kActivations, engine_.compute(), {dy.dim(0), stack_.hidden});
  ready_ = &ready;
  tn_tensor *in = hold(dy), *out = want_dx ? hold(dx) : nullptr;
  run(true, [&](const tn_region_ops* ops) { return a.region->backward(a.self, ops, in, out); });
  for (const auto& p : a.parameters) ready(*p);
  return dx;
}

}  // namespace tenon::trainer
