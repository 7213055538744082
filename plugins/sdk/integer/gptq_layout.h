// The folder format of GPTQ tools: in the place of a weight [m, n] its module has
//
//   qweight i32 [n·b/32, m]       each column one bit stream over the inputs, low bits first
//   qzeros  i32 [groups, m·b/32]  each row one bit stream over the outputs; version 1 holds zero − 1 modulo 2^b, version 2 holds zero
//   scales  f16 [groups, m]
//   g_idx   i32 [n]               the group of each input
#pragma once

#include <initializer_list>

#include "sdk/integer/grouped.h"
#include "sdk/quantizer.h"

namespace tenon::sdk {

struct GptqLayout {
  using Put = int32_t (*)(void*, const char*, const tn_tensor*);
  using Get = const tn_tensor* (*)(void*, const char*);

  GroupedSizes s;
  bool second = false;  // version 2
  std::string name;

  GptqLayout(const tn_target& target, const GroupedSizes& sizes, bool second) : s(sizes), second(second), name(name_of(target)) {
    if (target.ndim != 2 || s.n * s.bits % 32 || s.m * s.bits % 32)
      fail(TN_E_UNSUPPORTED, name + ": the files of GPTQ tools pack " + std::to_string(s.bits) + "-bit codes into words of 32 bits, which a weight of " +
                                 std::to_string(s.m) + " x " + std::to_string(s.n) + " does not fill");
  }
  int64_t words() const { return s.n * s.bits / 32; }
  int64_t zero_words() const { return s.m * s.bits / 32; }

  void write(const GroupedParts& p, void* context, Put put) const {
    std::vector<uint32_t> codes(static_cast<size_t>(words() * s.m)), zeros(static_cast<size_t>(s.groups * zero_words()));
    std::vector<f16> scales(static_cast<size_t>(s.groups * s.m));
    std::vector<int32_t> index(static_cast<size_t>(s.n));
    for (int64_t j = 0; j < s.n; ++j) index[j] = static_cast<int32_t>(p.group_of(s, j));
    std::vector<uint8_t> row(static_cast<size_t>(s.code_row));
    for (int64_t r = 0; r < s.m; ++r) {
      std::memcpy(row.data(), p.codes + r * s.code_row, row.size());
      for (int64_t g = 0; g < s.groups; ++g) {
        uint32_t zero = code_at(p.zeros + r * s.zero_row, g, s.bits);
        if (!second && zero == 0) zero = raise(p, g, row.data());
        put_code(reinterpret_cast<uint8_t*>(zeros.data() + g * zero_words()), r, s.bits, second ? zero : zero - 1);
        scales[g * s.m + r] = from_float<f16>(p.scale(r * s.groups + g));
      }
      for (int64_t k = 0; k < words(); ++k) std::memcpy(&codes[k * s.m + r], row.data() + 4 * k, 4);
    }
    hand(context, put, "../qweight", codes.data(), kI32, {words(), s.m});
    hand(context, put, "../qzeros", zeros.data(), kI32, {s.groups, zero_words()});
    hand(context, put, "../scales", scales.data(), kF16, {s.groups, s.m});
    hand(context, put, "../g_idx", index.data(), kI32, {s.n});
  }

  void read(void* context, Get get, const GroupedParts& p) const {
    const auto* codes = find<uint32_t>(context, get, "../qweight", kI32, {words(), s.m});
    const auto* zeros = find<uint32_t>(context, get, "../qzeros", kI32, {s.groups, zero_words()});
    const auto* scales = find<f16>(context, get, "../scales", kF16, {s.groups, s.m});
    const auto* index = get(context, "../g_idx") || s.indexed ? find<int32_t>(context, get, "../g_idx", kI32, {s.n}) : nullptr;
    const uint32_t mask = (1u << s.bits) - 1;
    for (int64_t j = 0; index && j < s.n; ++j) {
      if (index[j] < 0 || index[j] >= s.groups) refuse("../g_idx", "input " + std::to_string(j) + " names group " + std::to_string(index[j]) + " of " + std::to_string(s.groups));
      if (p.g_idx)
        p.g_idx[j] = index[j];
      else if (index[j] != j / s.group)
        refuse("../g_idx", "the groups are no runs of neighbouring inputs, though the configuration says that they are");
    }
    std::memset(p.zeros, 0, static_cast<size_t>(s.m * s.zero_row));
    for (int64_t r = 0; r < s.m; ++r) {
      for (int64_t k = 0; k < words(); ++k) std::memcpy(p.codes + r * s.code_row + 4 * k, &codes[k * s.m + r], 4);
      for (int64_t g = 0; g < s.groups; ++g) {
        const uint32_t stored = code_at(reinterpret_cast<const uint8_t*>(zeros + g * zero_words()), r, s.bits);
        put_code(p.zeros + r * s.zero_row, g, s.bits, (second ? stored : stored + 1) & mask);
        const f16 scale = scales[g * s.m + r];
        if (!is_finite(to_float(scale))) refuse("../scales", "NaN or Inf");
        if (p.wide)
          p.wide[r * s.groups + g] = to_float(scale);
        else
          p.scales[r * s.groups + g] = scale;
      }
    }
  }

 private:
  [[noreturn]] void refuse(const std::string& suffix, const std::string& why) const { fail(TN_E_FORMAT, name + " (" + suffix.substr(3) + "): " + why); }

  // Version 1 has no zero point of 0 that every reader takes for one: codes and zero point move up by one, where no code is the highest.
  uint32_t raise(const GroupedParts& p, int64_t g, uint8_t* row) const {
    const uint32_t top = (1u << s.bits) - 1;
    const auto each = [&](auto&& f) {
      for (int64_t j = 0; j < s.n; ++j)
        if (p.group_of(s, j) == g) f(j);
    };
    bool full = false;
    each([&](int64_t j) { full = full || code_at(row, j, s.bits) == top; });
    if (full)
      fail(TN_E_UNSUPPORTED, name + ": a group without negative weights uses the whole range, which version 1 of the files of GPTQ tools cannot express; use "
                                    "gptq:checkpoint_format=gptq_v2");
    each([&](int64_t j) { replace(row, j, code_at(row, j, s.bits) + 1); });
    return 1;
  }
  void replace(uint8_t* row, int64_t j, uint32_t code) const {
    for (int b = 0; b < s.bits; ++b) {
      const int64_t bit = j * s.bits + b;
      const uint8_t mask = static_cast<uint8_t>(1u << (bit & 7));
      row[bit >> 3] = static_cast<uint8_t>(code >> b & 1 ? row[bit >> 3] | mask : row[bit >> 3] & ~mask);
    }
  }

  static void hand(void* context, Put put, const char* suffix, void* data, tn_dtype dtype, std::initializer_list<int64_t> shape) {
    int64_t sizes[2] = {1, 1}, strides[2] = {1, 1};
    std::copy(shape.begin(), shape.end(), sizes);
    if (shape.size() == 2) strides[0] = sizes[1];
    const tn_tensor t{data, {TN_CPU, 0}, static_cast<int32_t>(shape.size()), dtype, sizes, strides, 0};
    check(put(context, suffix, &t));
  }

  template <class T>
  const T* find(void* context, Get get, const char* suffix, tn_dtype dtype, std::initializer_list<int64_t> shape) const {
    const tn_tensor* t = get(context, suffix);
    if (!t) refuse(suffix, "the file has no such tensor, which a weight in the layout of GPTQ tools needs");
    const auto text = [](const int64_t* d, size_t n) {
      std::string out = "[";
      for (size_t i = 0; i < n; ++i) out += (i ? ", " : "") + std::to_string(d[i]);
      return out + "]";
    };
    const bool shaped = t->ndim == static_cast<int32_t>(shape.size()) && std::equal(shape.begin(), shape.end(), t->shape);
    if (!shaped) refuse(suffix, "the tensor has the shape " + text(t->shape, static_cast<size_t>(t->ndim)) + " where " + text(shape.begin(), shape.size()) + " belongs");
    if (!same(t->dtype, dtype) || !is_contiguous(*t)) refuse(suffix, same(dtype, kF16) ? "the tensor is not of the type f16" : "the tensor is not of the type i32");
    return data<const T>(*t);
  }
};

}  // namespace tenon::sdk
