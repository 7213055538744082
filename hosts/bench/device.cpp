#include "hosts/bench/bench.h"

namespace tenon::bench {
namespace {

using trainer::kBF16;
using trainer::kF32;
using trainer::Tensor;

Tensor random(trainer::Engine& engine, tn_dtype dtype, std::initializer_list<int64_t> shape, uint32_t uid) {
  const Tensor t = engine.empty(Category::kActivations, dtype, shape);
  engine.fill_normal(t, 1, {1, uid, 0});
  return t;
}

}  // namespace

Figures device(const Catalog& catalog, const Setting& setting) {
  trainer::MixRequest request;
  request.device = setting.device;
  const trainer::Runtime runtime(catalog, request);
  const auto engine = runtime.engine(kF32, 0, false);
  const int64_t n = int64_t{1} << (setting.quick ? 20 : 25), side = setting.quick ? 256 : 1024;
  const int64_t rows = setting.quick ? 64 : 1024, hidden = 576, wide = 1536;  // one product of SmolLM2's MLP
  std::vector<Action> actions;
  const Tensor x = random(*engine, kF32, {n}, 1), y = random(*engine, kF32, {n}, 2);
  actions.push_back({"copy_gigabytes_per_second", 8.0 * static_cast<double>(n), 1e9, [&] {
                       engine->copy(x, y);
                       engine->synchronize();
                     }});
  actions.push_back({"triad_gigabytes_per_second", 12.0 * static_cast<double>(n), 1e9, [&] {
                       engine->axpby(0.5, x, 0.5, y);
                       engine->synchronize();
                     }});
  for (const tn_dtype dtype : {kF32, kBF16}) {
    const std::string type = dtype.bits == 32 ? "f32" : "bf16";
    const auto product = [&](const std::string& key, int64_t m, int64_t columns, int64_t inner) {
      const Tensor a = random(*engine, dtype, {m, inner}, 3), b = random(*engine, dtype, {columns, inner}, 4);
      const Tensor c = engine->empty(Category::kActivations, dtype, {m, columns});
      const double flops = 2.0 * static_cast<double>(m) * static_cast<double>(columns) * static_cast<double>(inner);
      actions.push_back({key, flops, 1e9, [&engine = *engine, a, b, c] {
                           engine.gemm(a, b.transposed(), c);
                           engine.synchronize();
                         }});
    };
    product("gemm_" + type + "_gigaflops", side, side, side);
    product("linear_" + type + "_gigaflops", rows, wide, hidden);
  }
  return measure(actions, setting.repeat);
}

}  // namespace tenon::bench
