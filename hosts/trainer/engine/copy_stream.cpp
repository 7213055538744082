#include "hosts/trainer/engine/copy_stream.h"

namespace tenon::trainer {

CopyStream::CopyStream(Engine& engine) : engine_(engine) {
  if (!engine_.dry()) check(engine_.api()->stream_create(engine_.device(), &stream_), "creating a stream of copies");
}

CopyStream::~CopyStream() {
  if (!stream_) return;
  (void)engine_.api()->stream_wait(engine_.device(), stream_);
  for (const auto& [ticket, e] : done_) engine_.api()->event_destroy(engine_.device(), e);
  engine_.api()->stream_destroy(engine_.device(), stream_);
}

tn_event* CopyStream::event() {
  tn_event* e = nullptr;
  check(engine_.api()->event_create(engine_.device(), &e), "creating an event");
  return e;
}

uint64_t CopyStream::copy(void* to, const void* from, uint64_t bytes, uint32_t direction) {
  if (engine_.dry()) return 0;
  const tn_device_api* api = engine_.api();
  tn_device* const device = engine_.device();
  tn_event* const before = event();
  const auto ordered = [&] {
    check(api->event_record(device, before, engine_.stream()), "ordering a copy");
    check(api->stream_wait_event(device, stream_, before), "ordering a copy");
    check(api->copy(device, stream_, to, from, bytes, direction), "copying a saved activation");
  };
  try {
    ordered();
  } catch (...) {
    api->event_destroy(device, before);
    throw;
  }
  api->event_destroy(device, before);
  tn_event*& done = done_[++tickets_];
  done = event();
  check(api->event_record(device, done, stream_), "marking a copy");
  return tickets_;
}

uint64_t CopyStream::to_host(const Tensor& from, void* to) { return copy(to, from.data(), static_cast<uint64_t>(from.bytes()), TN_COPY_TO_HOST); }
uint64_t CopyStream::to_device(const void* from, const Tensor& to) { return copy(to.data(), from, static_cast<uint64_t>(to.bytes()), TN_COPY_TO_DEVICE); }

void CopyStream::order_after(uint64_t ticket) {
  const auto found = done_.find(ticket);
  if (found == done_.end()) return;
  check(engine_.api()->stream_wait_event(engine_.device(), engine_.stream(), found->second), "waiting for a copy");
  engine_.api()->event_destroy(engine_.device(), found->second);
  done_.erase(found);
}

}  // namespace tenon::trainer
