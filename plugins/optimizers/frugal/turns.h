// FRUGAL's `block` split: whole tensors have states, others in every round.
#pragma once

#include <map>
#include <vector>

#include "optimizers/frugal/rule.h"
#include "sdk/draw.h"

namespace tenon::sdk::frugal {

enum class Order { kRandom, kAscending, kDescending, kMirror };

// Which of the bound tensors have states in a round: round(density · count) of them. In order they take turns and wrap around; mirror is first, last,
// second, last but one, …. A pure function of seed and round.
class Turns {
 public:
  Turns(double density, Order order) : density_(density), order_(order) {}

  void bind(std::vector<uint32_t> uids) { uids_ = std::move(uids), active_.clear(), round_ = -1; }

  void take(uint64_t seed, int64_t round) {
    const size_t all = uids_.size(), count = static_cast<size_t>(std::llrint(density_ * static_cast<double>(all)));
    active_.clear(), seed_ = seed, round_ = round;
    if (order_ == Order::kRandom) {
      for (const size_t at : draw_distinct({seed, 0x46525547, static_cast<uint32_t>(round)}, std::vector<double>(all, 1.0), count)) active_[uids_[at]] = true;
      return;
    }
    for (size_t k = 0; k < count; ++k) active_[uids_[place((static_cast<size_t>(round) % all * count + k) % all, all)]] = true;
  }

  bool has_states(uint32_t uid) const { return active_.count(uid) > 0; }
  uint64_t seed() const { return seed_; }
  int64_t round() const { return round_; }  // -1: none yet
  const std::vector<uint32_t>& uids() const { return uids_; }

 private:
  size_t place(size_t turn, size_t all) const {
    if (order_ == Order::kAscending) return turn;
    if (order_ == Order::kDescending) return all - 1 - turn;
    return turn % 2 == 0 ? turn / 2 : all - 1 - turn / 2;
  }

  double density_;
  Order order_;
  std::vector<uint32_t> uids_;
  std::map<uint32_t, bool> active_;
  uint64_t seed_ = 0;
  int64_t round_ = -1;
};

// A tensor without states: the inactive rule alone.
inline void update_outside(const tn_exec* exec, const Numbers& a, const tn_item& item) {
  const Stored grad = gradient_of(item), weight = weight_of(item);
  const int64_t n = count(*item.param);
  for_each_block<2 * kChunk * sizeof(float)>(
      exec, chunks(n),
      [=] TN_KERNEL(const Block& block) {
        const Chunk chunk(block, n);
        float* stage = block.shared<float>();
        const float* g = grad.read(block, chunk, stage);
        float* w = weight.read(block, chunk, stage + kChunk);
        block.each(chunk.n, [=](int64_t i) { w[i] = stepped(a.outside, w[i], a.direction(g[i] * a.adam.grad_scale)); });
        weight.write(block, chunk, w);
      },
      kChunk);
}

// A tensor whose states are all its own: Adam on the whole of it.
inline void update_inside(const tn_exec* exec, const Numbers& a, const tn_item& item, bool fresh) {
  const int64_t n = count(*item.param);
  const Stored m = state_of(item, 0, n), v = state_of(item, 1, n);
  if (fresh) {
    float *first = m.f32, *second = v.f32;
    for_each(exec, n, [=] TN_KERNEL(int64_t i) { first[i] = 0, second[i] = 0; });
  }
  adam_update<false>(exec, a.adam, n, gradient_of(item), weight_of(item), m, v, {});
}

}  // namespace tenon::sdk::frugal
