// Device memory → host memory. The way out: a copy beside the computation, whose source is let go when the next tensor but one follows. The way
// back: begun one block ahead.
#include <cstdlib>
#include <deque>
#include <optional>
#include <utility>

#include "core/error.h"
#include "hosts/trainer/engine/copy_stream.h"
#include "hosts/trainer/schedule/offload_stages.h"
#include "tenon/host_memory.h"

namespace tenon::trainer {
namespace {

constexpr size_t kInFlight = 2;  // tensors on their way out, whose device memory is still held

int32_t plain_alloc(tn_device*, uint64_t n_bytes, void** out) {
  *out = std::aligned_alloc(TN_ALIGNMENT, (n_bytes + TN_ALIGNMENT - 1) / TN_ALIGNMENT * TN_ALIGNMENT);
  return *out ? int32_t{TN_OK} : int32_t{TN_E_MEMORY};
}
void plain_free(tn_device*, void* memory) { std::free(memory); }

class HostStage : public ActivationStage {
 public:
  explicit HostStage(Engine& engine) : engine_(engine), copies_(engine) {
    const auto* locked = static_cast<const tn_host_memory*>(engine.api()->get_extension(TN_EXT_HOST_MEMORY));
    api_ = *engine.api();
    api_.alloc = locked ? locked->alloc : plain_alloc;
    api_.free = locked ? locked->free : plain_free;
    if (engine.dry())
      memory_.emplace(uint64_t{0});
    else
      memory_.emplace(&api_, engine.device(), uint64_t{0});
  }

  std::unique_ptr<Stowed> stow(const SavedTag&, Tensor tensor) override {
    auto item = std::make_unique<Item>(*this, tensor);
    const uint64_t ticket = copies_.to_host(tensor, item->host.data());
    flights_.push_back({std::move(tensor), ticket});
    while (flights_.size() > kInFlight) land();
    return item;
  }
  uint64_t peak_bytes() const override { return memory_->use().total_peak; }

 private:
  struct Item : Stowed {
    HostStage& stage;
    Tensor like;  // shape and type, without memory
    Block host;
    Tensor back;
    uint64_t ticket = 0;
    Item(HostStage& s, const Tensor& t)
        : stage(s), like({}, nullptr, t.device(), t.dtype(), t.shape(), t.ndim()), host(s.memory_->allocate(Category::kActivations, static_cast<uint64_t>(t.bytes()))) {}
    ~Item() override {
      if (back) stage.copies_.order_after(ticket);  // before its memory is used again
    }
    void prefetch() override {
      if (back) return;
      while (!stage.flights_.empty()) stage.land();
      back = stage.engine_.empty(Category::kActivations, like.dtype(), like.shape(), like.ndim());
      ticket = stage.copies_.to_device(host.data(), back);
    }
    Tensor restore() override {
      prefetch();
      stage.copies_.order_after(ticket);
      return std::exchange(back, Tensor());
    }
  };
  struct Flight {
    Tensor tensor;
    uint64_t ticket;
  };
  // Its memory is used again by what the engine's stream is given after the copy.
  void land() {
    copies_.order_after(flights_.front().ticket);
    flights_.pop_front();
  }

  Engine& engine_;
  tn_device_api api_{};
  std::optional<Memory> memory_;
  CopyStream copies_;
  std::deque<Flight> flights_;
};

}  // namespace

std::unique_ptr<ActivationStage> host_stage(Engine& engine) {
  if (engine.id().type == TN_CPU)
    throw Error(TN_E_CONFLICT, "--act-offload host moves saved activations to host memory, in which this device computes anyway; pass --act-offload file");
  return std::make_unique<HostStage>(engine);
}

std::unique_ptr<ActivationStage> offload_stage(Engine& engine, Offload offload, const std::string& folder) {
  if (offload == Offload::kAuto) offload = engine.id().type == TN_CPU ? Offload::kFile : Offload::kHost;
  if (offload == Offload::kHost) return host_stage(engine);
  if (offload == Offload::kFile) return file_stage(engine, folder);
  return nullptr;
}

}  // namespace tenon::trainer
