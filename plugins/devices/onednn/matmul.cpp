#include "devices/onednn/matmul.h"

#include <dnnl.hpp>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>

#include "devices/onednn/held_signals.h"
#include "sdk/base.h"

namespace tenon::onednn {
namespace {

using dnnl::memory;
using Dims = memory::dims;

// Packed layouts are chosen for this many rows of A: a layout must not depend on the batch at hand.
constexpr int64_t kPackedRows = 1024;

dnnl::engine& engine() {
  static dnnl::engine e = [] {
    // The plan cache already keeps what is in use. The library's own would hold another thousand primitives, a quarter
    // of a megabyte each, where every batch has another length.
    dnnl::set_primitive_cache_capacity(0);
    return dnnl::engine(dnnl::engine::kind::cpu, 0);
  }();
  return e;
}
// Streams of the CPU engine keep no state between calls, but the library asks for one per thread of use.
dnnl::stream& stream() {
  thread_local dnnl::stream s(engine());
  return s;
}

memory::data_type type_of(Type t) {
  return t == Type::kF32 ? memory::data_type::f32 : memory::data_type::bf16;
}

// ---- differences between the library's major versions
#if DNNL_VERSION_MAJOR >= 3
dnnl::matmul::primitive_desc describe(const memory::desc& a, const memory::desc& b, const memory::desc* bias,
                                      const memory::desc& c, const dnnl::primitive_attr& attr) {
  return bias ? dnnl::matmul::primitive_desc(engine(), a, b, *bias, c, attr)
              : dnnl::matmul::primitive_desc(engine(), a, b, c, attr);
}
#else
dnnl::matmul::primitive_desc describe(const memory::desc& a, const memory::desc& b, const memory::desc* bias,
                                      const memory::desc& c, const dnnl::primitive_attr& attr) {
  return bias ? dnnl::matmul::primitive_desc(dnnl::matmul::desc(a, b, *bias, c), attr, engine())
              : dnnl::matmul::primitive_desc(dnnl::matmul::desc(a, b, c), attr, engine());
}
#endif

memory::desc packed_desc(int64_t k, int64_t n, Type type) {
  const memory::desc a({kPackedRows, k}, type_of(type), Dims{k, 1}), b({k, n}, type_of(type), memory::format_tag::any),
      c({kPackedRows, n}, type_of(type), Dims{n, 1});
  return describe(a, b, nullptr, c, dnnl::primitive_attr()).weights_desc();
}

class DnnlMatmul final : public Matmul {
 public:
  DnnlMatmul(const dnnl::matmul::primitive_desc& pd, bool in_f32, bool has_bias, const memory::desc& alpha, bool has_alpha)
      : primitive_(pd),
        a_(pd.src_desc()),
        b_(pd.weights_desc()),
        c_(pd.dst_desc()),
        bias_(pd.bias_desc()),
        scratch_(pd.scratchpad_desc()),
        alpha_(alpha),
        in_f32_(in_f32),
        has_bias_(has_bias),
        has_alpha_(has_alpha),
        scratch_bytes_((scratch_.get_size() + 63) / 64 * 64) {}

  uint64_t scratch_bytes() const override { return scratch_bytes_; }

  void run(const void* a, const void* b, void* c, const void* bias, float alpha, void* scratch) const override {
    const auto wrap = [](const memory::desc& d, const void* p) { return memory(d, engine(), const_cast<void*>(p)); };
    const memory ma = wrap(a_, a), mb = wrap(b_, b), mc = wrap(c_, c), ms = wrap(scratch_, scratch);
    memory mbias, malpha;
    dnnl_exec_arg_t args[6] = {{DNNL_ARG_SRC, ma.get()},
                               {DNNL_ARG_WEIGHTS, mb.get()},
                               {DNNL_ARG_DST, mc.get()},
                               {DNNL_ARG_SCRATCHPAD, ms.get()},
                               {},
                               {}};
    int n = 4;
    if (has_bias_) {
      mbias = wrap(bias_, bias);
      args[n++] = {DNNL_ARG_BIAS, mbias.get()};
    }
    if (has_alpha_) {
      malpha = wrap(alpha_, &alpha);
      args[n++] = {DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1, malpha.get()};
    }
    std::optional<HeldSignals> held;
    if (in_f32_) held.emplace();
    const dnnl_status_t status = dnnl_primitive_execute(primitive_.get(), stream().get(), n, args);
    if (status != dnnl_success)
      sdk::fail(TN_E_DEVICE, "oneDNN failed to run a matrix product (status " + std::to_string(status) + ")");
  }

 private:
  dnnl::matmul primitive_;
  memory::desc a_, b_, c_, bias_, scratch_, alpha_;
  bool in_f32_, has_bias_, has_alpha_;
  uint64_t scratch_bytes_;
};

// The library's BLAS entry.
class Sgemm final : public Matmul {
 public:
  explicit Sgemm(const MatmulSpec& spec) : s_(spec) {}

  uint64_t scratch_bytes() const override { return 0; }

  void run(const void* a, const void* b, void* c, const void*, float alpha, void*) const override {
    const bool a_rows = s_.a_col == 1, b_rows = s_.b_col == 1;
    const HeldSignals held;
    const dnnl_status_t status =
        dnnl_sgemm(a_rows ? 'N' : 'T', b_rows ? 'N' : 'T', s_.m, s_.n, s_.k, alpha, static_cast<const float*>(a),
                   a_rows ? s_.a_row : s_.a_col, static_cast<const float*>(b), b_rows ? s_.b_row : s_.b_col,
                   s_.adds ? 1.0f : 0.0f, static_cast<float*>(c), s_.c_row);
    if (status != dnnl_success)
      sdk::fail(TN_E_DEVICE, "oneDNN failed to run a matrix product (status " + std::to_string(status) + ")");
  }

 private:
  MatmulSpec s_;
};

// f32 products for which sgemm beats the matmul primitive, measured with 2.6 on AVX-512: a transposed A, which matmul
// copies line by line (weight gradients: 5 to 25% faster), and the very long sums or very wide results of a language
// model's head (8 to 25%).
bool prefers_sgemm(const MatmulSpec& s) {
  constexpr int64_t kLong = 8192, kWide = 16384;
  if (s.ab != Type::kF32 || s.c != Type::kF32 || s.has_bias || s.packed_b || s.batch_axes > 0 || s.m == 1 || s.n == 1)
    return false;
  const bool dense = (s.a_col == 1 ? s.a_row >= s.k : s.a_col >= s.m) &&
                     (s.b_col == 1 ? s.b_row >= s.n : s.b_col >= s.k) && s.c_row >= s.n;
  return dense && (s.a_col != 1 || s.k >= kLong || s.n >= kWide);
}

}  // namespace

std::unique_ptr<const Matmul> make_matmul(const MatmulSpec& s) {
  try {
    if (prefers_sgemm(s)) return std::make_unique<Sgemm>(s);
    Dims da, sa, db, sb, dc, sc;
    const auto axis = [](Dims& dims, Dims& strides, int64_t n, int64_t stride) {
      dims.push_back(n);
      strides.push_back(stride);
    };
    // A shared operand has extent 1 along the batch axis; its stride there only has to look dense.
    for (int64_t i = 0; i < s.batch_axes; ++i) {
      axis(da, sa, s.a_batch[i] ? s.batch[i] : 1, s.a_batch[i] ? s.a_batch[i] : s.m * s.k);
      axis(db, sb, s.b_batch[i] ? s.batch[i] : 1, s.b_batch[i] ? s.b_batch[i] : s.k * s.n);
      axis(dc, sc, s.batch[i], s.c_batch[i]);
    }
    axis(da, sa, s.m, s.a_row), axis(da, sa, s.k, s.a_col);
    axis(db, sb, s.k, s.b_row), axis(db, sb, s.n, s.b_col);
    axis(dc, sc, s.m, s.c_row), axis(dc, sc, s.n, 1);
    Dims dbias(dc.size(), 1), sbias(dc.size(), s.n);
    dbias.back() = s.n, sbias.back() = 1;
    const memory::desc a(da, type_of(s.ab), sa), c(dc, type_of(s.c), sc), bias(dbias, memory::data_type::f32, sbias);
    const memory::desc b = s.packed_b ? packed_desc(s.k, s.n, s.ab) : memory::desc(db, type_of(s.ab), sb);

    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    dnnl::post_ops ops;
    const Dims one(dc.size(), 1);
    const memory::desc alpha(one, memory::data_type::f32, one);
    if (s.has_alpha)
      ops.append_binary(dnnl::algorithm::binary_mul, alpha);  // a scale of the library's is part of its code
    if (s.adds) ops.append_sum(1.0f);
    attr.set_post_ops(ops);
    const auto pd = describe(a, b, s.has_bias ? &bias : nullptr, c, attr);
    if (std::string_view(pd.impl_info_str()).starts_with("ref")) return nullptr;
    return std::make_unique<DnnlMatmul>(pd, s.ab == Type::kF32, s.has_bias != 0, alpha, s.has_alpha != 0);
  } catch (const dnnl::error& e) {
    if (e.status == dnnl_out_of_memory) throw std::bad_alloc();
    return nullptr;  // strides or a combination that the library does not take
  }
}

Packing packing_of(int64_t k, int64_t n, Type type) {
  try {
    const memory::desc packed = packed_desc(k, n, type), plain({k, n}, type_of(type), Dims{n, 1}),
                       transposed({k, n}, type_of(type), Dims{1, k});
    if (packed == plain || packed == transposed) return {0};
    return {packed.get_size()};
  } catch (const dnnl::error&) {
    return {0};
  }
}

void pack(int64_t k, int64_t n, Type type, int64_t row, int64_t col, const void* b, void* packed) {
  try {
    const memory from(memory::desc({k, n}, type_of(type), Dims{row, col}), engine(), const_cast<void*>(b));
    memory to(packed_desc(k, n, type), engine(), packed);
    dnnl::reorder(from, to).execute(stream(), const_cast<memory&>(from), to);
    stream().wait();
  } catch (const dnnl::error& e) {
    sdk::fail(TN_E_DEVICE, "oneDNN could not pack a weight of " + std::to_string(k) + " x " + std::to_string(n) +
                               " (status " + std::to_string(e.status) + ")");
  }
}

bool has_native_bf16() {
  const auto isa = static_cast<unsigned>(dnnl::get_effective_cpu_isa()),
             bf16 = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
  return (isa & bf16) == bf16;
}

const char* runtime_name() {
  static const std::string name = [] {
    const dnnl_version_t* v = dnnl::version();
    return "oneDNN " + std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch);
  }();
  return name.c_str();
}

}  // namespace tenon::onednn
