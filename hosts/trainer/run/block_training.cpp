#include "hosts/trainer/run/block_training.h"

#include <algorithm>
#include <cmath>
#include <deque>

#include "core/error.h"
#include "core/plugins/answer.h"
#include "hosts/trainer/engine/views.h"
#include "hosts/trainer/optim/schedule.h"

namespace tenon::trainer {

// A weight in its training form.
struct BlockTraining::Trained {
  Linear* linear;
  Engine* engine;
  const tn_trainable* api;
  tn_quantizer* self;
  std::deque<Parameter> values;

  Trained(Engine& e, const Quantizer& q, Linear& l) : linear(&l), engine(&e), api(q.trainable), self(q.self) {
    struct Sink {
      Trained* trained;
      static int32_t declare(void* self, const tn_value* v) {
        return answer([&] {
          Trained& t = *static_cast<Sink*>(self)->trained;
          Parameter& p = t.values.emplace_back();
          p.name = t.linear->path + ".weight." + v->name;
          p.uid = t.linear->uid + (static_cast<uint32_t>(t.values.size()) << 24);
          p.role = t.values.size() == 1 ? t.linear->role : uint32_t{TN_ROLE_SCALE}, p.block = t.linear->block;
          p.trainable = v->lr > 0, p.lr_scale = v->lr;
          p.value = t.engine->empty(Category::kWorkspace, kF32, v->shape, v->ndim);
        });
      }
    } sink{this};
    const tn_value_sink table{sizeof(tn_value_sink), 0, &sink, Sink::declare};
    check(api->values(self, &target(), &table), "planning a weight in training");
  }
  const tn_target& target() const { return linear->quantized->target(); }
  std::vector<Tensor> tensors() const {
    std::vector<Tensor> all;
    for (const Parameter& p : values) all.push_back(p.value);
    return all;
  }
  void call(const char* name, const std::function<int32_t(const tn_exec*)>& f) { engine->with_workspace(0, name, f); }

  void start(const Tensor& dense) {
    const Views v(tensors());
    call("start of training", [&](const tn_exec* x) { return api->start(self, x, &target(), dense.ref(), v.data()); });
  }
  void materialize() {
    const Views v(tensors());
    call("materialize", [&](const tn_exec* x) { return api->materialize(self, x, &target(), v.data(), 0, linear->m, linear->weight->value.ref()); });
  }
  // The gradient of the materialized weight becomes that of the values.
  void pass_gradient() {
    std::vector<Tensor> gradients;
    for (Parameter& p : values) gradients.push_back(p.trainable ? p.open_zeroed_gradient(*engine) : Tensor());
    const Views v(tensors()), dv(gradients);
    call("gradient of a weight in training", [&](const tn_exec* x) {
      return api->gradient(self, x, &target(), v.data(), linear->weight->gradient.ref(), 0, linear->m, dv.data());
    });
    linear->weight->drop_gradient();
  }
  void clamp() {
    const Views v(tensors());
    if (api->clamp) call("clamp", [&](const tn_exec* x) { return api->clamp(self, x, &target(), v.data()); });
  }
  void harden() {
    const Views v(tensors()), components(linear->quantized->components());
    call("harden", [&](const tn_exec* x) { return api->harden(self, x, &target(), v.data(), components.data()); });
  }
};

BlockTraining::BlockTraining(Engine& engine, const Quantizer& quantizer, OpenOptimizer open, std::function<Tensor(const Linear&)> dense, uint64_t seed)
    : engine_(engine), quantizer_(quantizer), open_(std::move(open)), dense_(std::move(dense)), seed_(seed) {}

// Mean square of the block's output less what it ought to be.
double BlockTraining::loss(TransformerBlock& block, const Pass& pass, const Tensor& x, const Tensor& target) {
  const Tensor y = block.forward(engine_, pass, x, nullptr);
  engine_.axpby(-1, target, 1, y);
  return engine_.sum_squares(y)[0] / static_cast<double>(y.count());
}

// Gradients of the values over sequences [begin, end).
void BlockTraining::step(TransformerBlock& block, const Pass& pass, std::vector<Trained>& trained, const std::vector<Tensor>& plain,
                         const std::vector<Tensor>& coded, size_t begin, size_t end) {
  Pass p = pass;
  p.train = true;
  for (size_t i = begin; i < end; ++i) {
    SavedBlock saved;
    Tensor dy = block.forward(engine_, p, coded[i], &saved);
    const double scale = 2.0 / (static_cast<double>(dy.count()) * static_cast<double>(end - begin));
    engine_.axpby(-scale, plain[i], scale, dy);
    block.backward(engine_, p, saved, dy, false, [](Parameter&) {});
  }
  for (Trained& t : trained) t.pass_gradient();
}

void BlockTraining::run(TransformerBlock& block, const Pass& pass, std::vector<Tensor>& plain, std::vector<Tensor>& coded) {
  const tn_training_plan& plan = quantizer_.training;
  {
    StandIns weights(engine_, block);
    weights.fill(engine_, dense_);
    for (Tensor& x : plain) x = block.forward(engine_, pass, x, nullptr);

    std::vector<Trained> trained;
    std::vector<Parameter*> values;
    for (Linear& l : block.linears) trained.emplace_back(engine_, quantizer_, l);
    for (Trained& t : trained) {
      t.start(dense_(*t.linear));
      t.materialize();
      t.linear->weight->trainable = true;
      for (Parameter& v : t.values)
        if (v.trainable) values.push_back(&v);
    }
    const size_t n = plain.size(), kept = std::min<size_t>(static_cast<size_t>(std::max<int64_t>(plan.validation, 0)), n / 4), used = n - kept;
    const size_t batch = static_cast<size_t>(std::clamp<int64_t>(plan.batch, 1, static_cast<int64_t>(used)));
    const int64_t per_epoch = static_cast<int64_t>((used + batch - 1) / batch), total = per_epoch * std::max<int64_t>(plan.epochs, 0);
    const auto validation = [&] {
      double sum = 0;
      for (size_t i = used; i < n; ++i) sum += loss(block, pass, coded[i], plain[i]);
      return sum;
    };
    if (total > 0 && !values.empty()) {
      const std::shared_ptr<OptimizerMember> member = open_();
      Optimizers optimizers(engine_, {*member}, values, WeightUpdate::kNearest, seed_);
      double least = validation();
      for (int64_t epoch = 0, done = 0; epoch < plan.epochs; ++epoch) {
        for (int64_t s = 0; s < per_epoch && (s < 2 || !engine_.dry()); ++s, ++done) {  // two steps have the peak of all
          const tn_step step_info{sizeof(tn_step), 1, done + 1, total, 0, seed_};
          optimizers.plan(step_info);
          const size_t begin = static_cast<size_t>(s) * batch;
          step(block, pass, trained, plain, coded, begin, std::min(begin + batch, used));
          const double height = cosine_height(static_cast<double>(done) / static_cast<double>(total), plan.floor);
          optimizers.apply_all({height, height}, 1);
          optimizers.drop_gradients();
          optimizers.finish(step_info, std::nullopt);
          for (Trained& t : trained) t.clamp(), t.materialize();
        }
        if (engine_.dry()) break;
        if (kept == 0) continue;
        const double now = validation();
        if (!std::isfinite(now)) throw Error(TN_E_NUMERIC, "the loss of block " + std::to_string(block.index) + " in training is NaN or Inf; lower the quantizer's learning rates or use --dtype f32");
        if (now >= least) break;
        least = now;
      }
    }
    for (Trained& t : trained) t.harden();
  }
  for (Tensor& x : coded) x = block.forward(engine_, pass, x, nullptr);
}

}  // namespace tenon::trainer
