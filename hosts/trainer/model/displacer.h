// Reading a parameter as if it stood elsewhere: a probe of an optimizer that drives the step (org.tenon.drive/1).
#pragma once

#include "hosts/trainer/engine/engine.h"
#include "tenon/drive.h"

namespace tenon::trainer {

// Bytes of the panel through which a displaced matrix is read: it stays in cache between noise and product.
inline constexpr int64_t kDisplacedPanelBytes = 4 << 20;

// One displacement of the parameters of one optimizer.
struct Displacer {
  const tn_drive* api = nullptr;
  tn_optimizer* self = nullptr;
  const tn_displacement* at = nullptr;

  // out, any shape of `out.count()` elements, = those of the displaced value from `begin` on.
  void read(Engine& engine, uint32_t uid, const Tensor& value, int64_t begin, const Tensor& out) const;
};

}  // namespace tenon::trainer
