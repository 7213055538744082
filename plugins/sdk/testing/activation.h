// A codec driven through org.tenon.activation/1.
#pragma once

#include "sdk/testing/codec.h"
#include "tenon/activation.h"

namespace tenon::sdk::testing {

inline tn_activation make_activation(uint32_t use, int64_t rows, int64_t channels, int64_t heads = 0, tn_dtype dtype = kF32) {
  return {sizeof(tn_activation), use, 3, 0, rows, channels, heads, dtype, 0};
}

class TestActivations {
 public:
  explicit TestActivations(TestCodec& codec)
      : codec_(codec), table(*static_cast<const tn_activation_codec*>(codec.plugin.get_extension(TN_EXT_ACTIVATION))) {}

  Coded token(const tn_activation& what) { return plan(table.token, what); }
  Coded statistics(const tn_activation& what) { return table.statistics ? plan(table.statistics, what) : Coded{}; }

  int32_t try_save(const tn_activation& what, const Tensor& x, Coded& statistics, Coded& out, uint32_t stream = 0) {
    out = token(what);
    Exec exec(estimate(what, TN_QUANTIZER_ENCODE).workspace_bytes);
    const tn_rng rng{11, what.slot, stream};
    const int32_t status = table.save(codec_.self, exec.get(), &what, x.get(), statistics.pointers().data(), out.pointers().data(), &rng);
    EXPECT_TRUE(exec.intact() && out.intact() && statistics.intact() && x.intact());
    return status;
  }
  Coded save(const tn_activation& what, const std::vector<float>& x, Coded& statistics, uint32_t stream = 0) {
    Coded out;
    codec_.expect(try_save(what, Tensor(what.dtype, {what.rows, what.channels}, x), statistics, out, stream));
    EXPECT_EQ(estimate(what, TN_QUANTIZER_ENCODE).state_bytes, out.bytes());
    return out;
  }
  std::vector<float> restore(const tn_activation& what, Coded& token) {
    Tensor x(what.dtype, {what.rows, what.channels});
    Exec exec(estimate(what, TN_QUANTIZER_DECODE).workspace_bytes);
    codec_.expect(table.restore(codec_.self, exec.get(), &what, token.pointers().data(), x.get()));
    EXPECT_TRUE(exec.intact() && x.intact() && token.intact());
    return x.floats();
  }
  tn_estimate estimate(const tn_activation& what, uint32_t op) {
    tn_estimate e{};
    e.struct_size = sizeof e;
    codec_.expect(table.estimate(codec_.self, cpu_device_api(), cpu_device(), &what, op, &e));
    return e;
  }

 private:
  template <class Plan>
  Coded plan(Plan call, const tn_activation& what) {
    Coded out;
    const tn_component_sink sink = out.sink();
    codec_.expect(call(codec_.self, &what, &sink));
    return out;
  }
  TestCodec& codec_;

 public:
  const tn_activation_codec& table;
};

}  // namespace tenon::sdk::testing
