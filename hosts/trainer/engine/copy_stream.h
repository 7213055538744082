// Copies between device and host that run beside an engine's work.
#pragma once

#include <map>

#include "hosts/trainer/engine/engine.h"

namespace tenon::trainer {

class CopyStream {
 public:
  explicit CopyStream(Engine& engine);
  ~CopyStream();
  CopyStream(const CopyStream&) = delete;

  // A copy that comes after everything that the engine's stream has been given so far, and after earlier copies. `to`, `from`: memory of the
  // host. Answers a ticket; 0 on a dry engine.
  uint64_t to_host(const Tensor& from, void* to);
  uint64_t to_device(const void* from, const Tensor& to);
  // What the engine's stream is given from now on comes after that copy. Blocks nobody.
  void order_after(uint64_t ticket);

 private:
  uint64_t copy(void* to, const void* from, uint64_t bytes, uint32_t direction);
  tn_event* event();

  Engine& engine_;
  tn_stream* stream_ = nullptr;
  std::map<uint64_t, tn_event*> done_;  // of copies that nobody has waited for
  uint64_t tickets_ = 0;
};

}  // namespace tenon::trainer
