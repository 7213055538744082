#include "hosts/bench/bench.h"

namespace tenon::bench {

using trainer::kBF16;
using trainer::kF32;
using trainer::Tensor;

Figures nf4(const Catalog& catalog, const Setting& setting) {
  const int64_t m = setting.quick ? 256 : 2048, n = setting.quick ? 704 : 5632;
  const double elements = static_cast<double>(m * n);
  // One runtime for each form: the double quantization of scales is a setting of the codec.
  std::vector<std::unique_ptr<trainer::Runtime>> runtimes;
  std::vector<std::unique_ptr<trainer::TechniqueSet>> sets;
  for (const char* spec : {"nf4:double_quant=false", "nf4:double_quant=true"}) {
    trainer::MixRequest request;
    request.device = setting.device, request.quantizer = spec;
    runtimes.push_back(std::make_unique<trainer::Runtime>(catalog, request));
    sets.push_back(runtimes.back()->instantiate());
  }
  const auto engine = runtimes[0]->engine(kF32, 0, false), engine16 = runtimes[0]->engine(kBF16, 0, false);
  const Tensor w = engine->empty(Category::kWeights, kF32, {m, n}),
               out = engine->empty(Category::kWeights, kF32, {m, n}),
               out16 = engine16->empty(Category::kWeights, kBF16, {m, n});
  engine->fill_normal(w, 1, {1, 1, 0});
  trainer::QuantizedWeight plain(*engine, *sets[0]->techniques.quantizer, "weight", 1, TN_ROLE_UP, 0, m, n),
      twice(*engine, *sets[1]->techniques.quantizer, "weight", 1, TN_ROLE_UP, 0, m, n);
  const auto run = [](trainer::Engine& e, auto body) {
    return [&e, body] {
      body();
      e.synchronize();
    };
  };
  return measure(
      {{"encode_f32_elements_per_second", elements, 1, run(*engine, [&] { plain.encode(*engine, w); })},
       {"encode_double_f32_elements_per_second", elements, 1, run(*engine, [&] { twice.encode(*engine, w); })},
       {"decode_f32_elements_per_second", elements, 1, run(*engine, [&] { plain.decode_rows(*engine, 0, m, out); })},
       {"decode_bf16_elements_per_second", elements, 1,
        run(*engine16, [&] { plain.decode_rows(*engine16, 0, m, out16); })}},
      setting.repeat);
}

}  // namespace tenon::bench
