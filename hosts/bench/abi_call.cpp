#include "core/plugins/host.h"
#include "hosts/bench/bench.h"

namespace tenon::bench {

Figures abi_call(const Catalog& catalog, const Setting& setting) {
  trainer::MixRequest request;
  request.device = setting.device, request.optimizer = "adamw";
  const trainer::Runtime runtime(catalog, request);
  const auto set = runtime.instantiate();
  const trainer::Techniques& t = set->techniques;
  const double calls = setting.quick ? 1e3 : 1e6;
  const tn_query query{
      TN_SIZE_TO(tn_query, shape), TN_ROLE_Q, {TN_CPU, 0}, trainer::kF32, trainer::kF32, 2, 0, {64, 64, 0, 0}};
  tn_stream* stream = nullptr;
  check(runtime.device_api()->stream_create(runtime.device(), &stream), "creating a stream");
  const auto repeat = [&](auto call) {
    return [call, calls] {
      for (int64_t i = 0; i < static_cast<int64_t>(calls); ++i) call();
    };
  };
  int32_t worst = TN_OK;
  // An answer from a technique, the device's wait on an idle stream, and a look-up that finds nothing.
  Figures out =
      measure({{"supports_nanoseconds", 0, 0,
                repeat([&] { worst = std::min(worst, t.optimizers[0].api->supports(t.optimizers[0].self, &query)); })},
               {"stream_wait_nanoseconds", 0, 0,
                repeat([&] { worst = std::min(worst, runtime.device_api()->stream_wait(runtime.device(), stream)); })},
               {"get_extension_nanoseconds", 0, 0,
                repeat([&] { (void)runtime.device_api()->get_extension("org.tenon.none/1"); })}},
              setting.repeat);
  runtime.device_api()->stream_destroy(runtime.device(), stream);
  check(worst, "calling a plugin");
  for (Figure& f : out) f.value *= 1e9 / calls;
  return out;
}

}  // namespace tenon::bench
