// The plans of recent products, least recently used first out. A training step repeats a few dozen shapes; each kernel
// keeps some hundred kilobytes of generated code.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "devices/onednn/gemm_plan.h"

namespace tenon::onednn {

class PlanCache {
 public:
  static constexpr size_t kCapacity = 256;

  // [any-thread]. The plan stays valid for its holder after it left the cache.
  std::shared_ptr<const GemmPlan> get(const Problem& problem) {
    {
      const std::lock_guard lock(mutex_);
      if (const auto it = index_.find(problem); it != index_.end()) {
        entries_.splice(entries_.begin(), entries_, it->second);
        return it->second->second;
      }
    }
    auto plan = std::make_shared<const GemmPlan>(problem);  // generating code takes milliseconds: not under the lock
    const std::lock_guard lock(mutex_);
    if (const auto it = index_.find(problem); it != index_.end()) return it->second->second;
    entries_.emplace_front(problem, plan);
    index_.emplace(problem, entries_.begin());
    if (entries_.size() > kCapacity) {
      index_.erase(entries_.back().first);
      entries_.pop_back();
    }
    return plan;
  }

 private:
  struct Hash {
    size_t operator()(const Problem& p) const {
      static_assert(sizeof(Problem) % 8 == 0);
      uint64_t words[sizeof(Problem) / 8], h = 0x9e3779b97f4a7c15u;
      std::memcpy(words, &p, sizeof p);
      for (const uint64_t w : words) h = (h ^ w) * 0xff51afd7ed558ccdu, h ^= h >> 32;
      return h;
    }
  };
  using Entry = std::pair<Problem, std::shared_ptr<const GemmPlan>>;

  std::mutex mutex_;
  std::list<Entry> entries_;
  std::unordered_map<Problem, std::list<Entry>::iterator, Hash> index_;
};

}  // namespace tenon::onednn
