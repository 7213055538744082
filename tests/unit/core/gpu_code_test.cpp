// Reading what GPU code an object carries.
#include "core/plugins/gpu_code.h"

#include <gtest/gtest.h>

#include <cstring>

namespace tenon {
namespace {

template <class T>
void put(std::string& to, T value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof value);
}
GpuCode read(const std::string& bytes) { return gpu_code({reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()}); }

std::string cuda_entry(uint16_t kind, uint32_t capability) {
  std::string e;
  put<uint16_t>(e, kind), put<uint16_t>(e, 0x101), put<uint32_t>(e, 64), put<uint64_t>(e, 8);
  e.resize(28), put<uint32_t>(e, capability), e.resize(64), e += "payload!";
  return e;
}
std::string cuda(const std::string& entries) {
  std::string f = "\x50\xed\x55\xba";
  put<uint16_t>(f, 1), put<uint16_t>(f, 16), put<uint64_t>(f, entries.size());
  return f + entries;
}
std::string hip(const std::vector<std::pair<std::string, uint64_t>>& targets) {
  std::string f = "__CLANG_OFFLOAD_BUNDLE__";
  put<uint64_t>(f, targets.size());
  for (const auto& [target, size] : targets) put<uint64_t>(f, 4096), put<uint64_t>(f, size), put<uint64_t>(f, target.size()), f += target;
  return f;
}

TEST(GpuCode, ListsMachineCodeAndPtx) {
  const GpuCode code = read("leading bytes" + cuda(cuda_entry(2, 80) + cuda_entry(2, 90) + cuda_entry(1, 90)) +
                            std::string("tenon gpu runtime: CUDA 13.0\0", 29) + cuda(cuda_entry(2, 80)));
  EXPECT_EQ(code.targets, (std::vector<std::string>{"compute_90", "sm_80", "sm_90"}));
  EXPECT_EQ(code.runtime, "CUDA 13.0");
}

TEST(GpuCode, ListsTheTargetsOfABundleThatHaveCode) {
  const GpuCode code =
      read(hip({{"host-x86_64-unknown-linux", 0}, {"hipv4-amdgcn-amd-amdhsa--gfx90a", 900}, {"hipv4-amdgcn-amd-amdhsa--gfx1030", 0}}));
  EXPECT_EQ(code.targets, (std::vector<std::string>{"gfx90a"}));
}

TEST(GpuCode, DamagedBytesEndTheReading) {
  const std::string whole = cuda(cuda_entry(2, 80) + cuda_entry(2, 90)) + hip({{"hipv4-amdgcn-amd-amdhsa--gfx90a", 1}});
  for (size_t n = 0; n <= whole.size(); ++n) EXPECT_LE(read(whole.substr(0, n)).targets.size(), 3u);
  std::string huge = cuda(cuda_entry(2, 80));
  std::memset(huge.data() + 8, 0xff, 8);
  EXPECT_TRUE(read(huge).targets.empty());
  EXPECT_TRUE(read("").targets.empty());
}

}  // namespace
}  // namespace tenon
