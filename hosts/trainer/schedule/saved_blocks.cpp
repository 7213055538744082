#include "hosts/trainer/schedule/saved_blocks.h"

#include <utility>

namespace tenon::trainer {
namespace {

// Sums and statistics are small and stay.
constexpr struct {
  Tensor SavedBlock::*member;
  const char* name;
} kLarge[] = {{&SavedBlock::x, "x"}, {&SavedBlock::q_raw, "q_raw"}, {&SavedBlock::k_raw, "k_raw"}, {&SavedBlock::q, "q"}, {&SavedBlock::k, "k"},
              {&SavedBlock::v, "v"}, {&SavedBlock::o, "o"}, {&SavedBlock::middle, "middle"}, {&SavedBlock::gate, "gate"}, {&SavedBlock::up, "up"}};

}  // namespace

void SavedBlocks::stow(size_t block, const Pass& pass) {
  if (!stage_ || static_cast<int64_t>(block) + keep_last_ >= static_cast<int64_t>(saved_.size())) return;
  SavedBlock& s = saved_[block];
  for (const auto& [member, name] : kLarge)
    if (s.*member)
      stowed_[block].push_back({member, stage_->stow({static_cast<int32_t>(block), name, pass.call.micro_batch, pass.call.step}, std::exchange(s.*member, Tensor()))});
}

SavedBlock& SavedBlocks::fetch(size_t block, size_t next) {
  for (Item& item : stowed_[block]) saved_[block].*item.member = item.stowed->restore();
  stowed_[block].clear();
  if (next != block)
    for (Item& item : stowed_[next]) item.stowed->prefetch();
  return saved_[block];
}

}  // namespace tenon::trainer
