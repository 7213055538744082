// The small host-side state of a technique as bytes: values one after the other, checked when they are read.
#pragma once

#include <cstring>
#include <string>
#include <type_traits>

#include "sdk/base.h"

namespace tenon::sdk {

class BlobWriter {
 public:
  template <class T>
  void put(T value) {
    if constexpr (std::is_same_v<T, std::string>) {
      put(static_cast<uint64_t>(value.size()));
      bytes_ += value;
    } else {
      static_assert(std::is_trivially_copyable_v<T>);
      bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    }
  }
  void write(const tn_sink& sink) const { check(sink.write(sink.self, bytes_.data(), bytes_.size())); }

 private:
  std::string bytes_;
};

class BlobReader {
 public:
  BlobReader(const void* bytes, uint64_t n, const char* technique)
      : at_(static_cast<const char*>(bytes)), left_(n), technique_(technique) {}
  [[noreturn]] void damaged() const {
    fail(TN_E_FORMAT, std::string(technique_) + ": the saved state is damaged or of other settings; resume from an older checkpoint");
  }
  template <class T>
  T get() {
    T value;
    if (left_ < sizeof value) damaged();
    std::memcpy(&value, at_, sizeof value);
    at_ += sizeof value, left_ -= sizeof value;
    return value;
  }
  std::string text() {
    const auto n = get<uint64_t>();
    if (n > left_) damaged();
    std::string out(at_, n);
    at_ += n, left_ -= n;
    return out;
  }
  void end() const {
    if (left_ != 0) damaged();
  }

 private:
  const char* at_;
  uint64_t left_;
  const char* technique_;
};

}  // namespace tenon::sdk
