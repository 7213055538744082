#include "devices/onednn/choose_type.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "devices/onednn/matmul.h"

namespace tenon::onednn {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Free {
  void operator()(void* p) const { std::free(p); }
};
std::unique_ptr<char, Free> zeros(uint64_t n_bytes) {
  const uint64_t rounded = (n_bytes + 63) / 64 * 64;
  std::unique_ptr<char, Free> p(static_cast<char*>(std::aligned_alloc(64, rounded)));
  if (p) std::memset(p.get(), 0, rounded);
  return p;
}

bool decide() {
  if (const char* forced = std::getenv("TENON_GEMM")) {
    if (std::strcmp(forced, "f32") == 0) return false;
    if (std::strcmp(forced, "bf16") == 0) return true;
  }
  if (!has_native_bf16()) return false;
  const double f32 = measure_gemm(false, 512, 576, 1536, 0.02), bf16 = measure_gemm(true, 512, 576, 1536, 0.02);
  return f32 == 0 || bf16 == 0 || bf16 * 2 > f32;
}

}  // namespace

bool bf16_is_fast() {
  static const bool fast = decide();
  return fast;
}

double measure_gemm(bool bf16, int64_t m, int64_t n, int64_t k, double seconds) {
  MatmulSpec s{};
  s.m = m, s.n = n, s.k = k, s.a_row = k, s.a_col = 1, s.b_row = 1, s.b_col = k, s.c_row = n;
  s.ab = bf16 ? Type::kBF16 : Type::kF32, s.c = Type::kF32;
  const auto kernel = make_matmul(s);
  if (!kernel) return 0;
  const uint64_t bytes = size_of(s.ab);
  const auto a = zeros(m * k * bytes), b = zeros(k * n * bytes), c = zeros(m * n * 4),
             scratch = zeros(kernel->scratch_bytes() + 64);
  if (!a || !b || !c || !scratch) return 0;
  double best = 0;
  const double end = now() + seconds;
  for (int i = 0; i < 4 || now() < end; ++i) {  // the first call generates code and touches pages
    const double begin = now();
    kernel->run(a.get(), b.get(), c.get(), nullptr, 1.0f, scratch.get());
    const double rate = 2.0 * m * n * k / (now() - begin);
    best = i > 0 && rate > best ? rate : best;
  }
  return best;
}

}  // namespace tenon::onednn
