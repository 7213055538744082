// The sites that an adapter took: found by the host's number, and by the order in which they were taken, which numbers their parameters where every
// site has as many.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "sdk/base.h"

namespace tenon::sdk {

template <class Site>
class Sites {
 public:
  // adapter: its id, for the sentence on a site that it did not take.
  explicit Sites(const char* adapter) : adapter_(adapter) {}

  const Site& add(uint32_t id, Site site) {
    order_.push_back(id);
    return by_id_.insert_or_assign(id, std::move(site)).first->second;
  }
  const Site& at(uint32_t id) const {
    const auto it = by_id_.find(id);
    if (it == by_id_.end()) fail(TN_E_ARGUMENT, std::string(adapter_) + " did not take site " + std::to_string(id));
    return it->second;
  }
  // The one that was taken after i others.
  const Site& taken(size_t i) const {
    if (i >= order_.size()) fail(TN_E_ARGUMENT, std::string(adapter_) + " took " + std::to_string(order_.size()) + " sites; site " + std::to_string(i) + " of them was asked for");
    return by_id_.at(order_[i]);
  }
  const std::vector<uint32_t>& ids() const { return order_; }
  size_t size() const { return order_.size(); }
  bool empty() const { return order_.empty(); }

 private:
  const char* adapter_;
  std::map<uint32_t, Site> by_id_;
  std::vector<uint32_t> order_;
};

}  // namespace tenon::sdk
