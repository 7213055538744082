// Adapters over a quantized base: a step is that over the weights which the codes stand for.
#include <gtest/gtest.h>

#include "tests/unit/trainer/tiny.h"

namespace tenon::trainer {
namespace {

TEST(QuantizedBase, TrainsAsOverTheDecodedWeights) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  for (const char* adapter : {"lora:r=4,target_modules=all-linear", "dora:r=4,target_modules=all-linear", "paca:r=4"}) {
    tiny::Run coded(model, tiny::mix("adamw", {adapter}, "nf4"), {}), dense(model, tiny::mix("adamw", {adapter}), {});
    const std::vector<Linear*> from = coded.session->model().sites(), to = dense.session->model().sites();
    ASSERT_EQ(from.size(), to.size());
    size_t decoded = 0;
    for (size_t i = 0; i < from.size(); ++i) {
      if (!from[i]->quantized || from[i]->weight) continue;
      ++decoded;
      const Tensor w = coded.engine->empty(Category::kWorkspace, kF32, {from[i]->m, from[i]->n});
      from[i]->read_rows(*coded.engine, 0, from[i]->m, w);
      dense.engine->upload(tiny::host_copy(*coded.engine, w).data(), to[i]->weight->value);
    }
    EXPECT_EQ(decoded, 14u);
    // What starts from the base (norms of rows) started from the weights before.
    std::map<std::string, const Parameter*> parameters;
    for (const auto& p : coded.set->adapters[0]->parameters) parameters[p->name] = p.get();
    for (const auto& p : dense.set->adapters[0]->parameters)
      if (p->value.dtype() == kF32) dense.engine->upload(tiny::host_copy(*coded.engine, parameters.at(p->name)->value).data(), p->value);
    for (int64_t step = 1; step <= 3; ++step) {
      const double a = coded.session->step(step, 3, {tiny::input()}, 1e-2).loss, b = dense.session->step(step, 3, {tiny::input()}, 1e-2).loss;
      EXPECT_NEAR(a, b, 1e-6 * b) << adapter << " " << step;
    }
    EXPECT_LT(tiny::distance(tiny::all_weights(coded), tiny::all_weights(dense)), 1e-4) << adapter;
  }
}

}  // namespace
}  // namespace tenon::trainer
