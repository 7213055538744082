// An optimizer around another one (org.tenon.inner/1): the wrapped instance, called as a host calls it.
#pragma once

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "sdk/plugin.h"
#include "sdk/tensor.h"
#include "tenon/inner.h"
#include "tenon/runs.h"

namespace tenon::sdk {

// The schema entry by which hosts and users know the wrapped optimizer.
constexpr tn_hyper_info hyper_inner(const char* fallback) {
  return text("inner", fallback, "the optimizer that updates what trains, as a spec");
}

class Inner {
 public:
  // technique: named in refusals.
  Inner(const tn_host* host, const char* technique, std::string_view spec) : technique_(technique) {
    const auto* table = static_cast<const tn_inner*>(host->get_extension(host, TN_EXT_INNER));
    if (!table) fail(TN_E_UNSUPPORTED, technique_ + " wraps another optimizer, and this host opens none (org.tenon.inner/1)");
    check(table->open(host, std::string(spec).c_str(), &plugin_, &self_));
    api_ = static_cast<const tn_optimizer_api*>(plugin_->api);
  }
  Inner(Inner&& o) noexcept
      : technique_(std::move(o.technique_)), plugin_(o.plugin_), api_(o.api_), self_(std::exchange(o.self_, nullptr)) {}
  Inner& operator=(Inner&&) = delete;
  ~Inner() {
    if (self_) api_->destroy(self_);
  }

  void supports(const tn_query& q) const { check(api_->supports(self_, &q)); }
  void bind(const tn_param* const* params, uint64_t n) const { check(api_->bind(self_, params, n)); }
  void state_layout(uint32_t uid, const tn_state_sink& sink) const { check(api_->state_layout(self_, uid, &sink)); }
  void estimate(const tn_device_api* api, tn_device* device, uint32_t uid, tn_estimate& out) const {
    check(api_->estimate(self_, api, device, uid, &out));
  }
  // What the inner plan says about a parameter goes to `sink`.
  void plan(const tn_step& step, const tn_plan_sink& sink) const {
    if (TN_HAS(api_, tn_optimizer_api, plan) && api_->plan) check(api_->plan(self_, &step, &sink));
  }
  int32_t prepare(const tn_exec* exec, const tn_item* const* items, uint64_t n) const {
    if (!TN_HAS(api_, tn_optimizer_api, prepare) || !api_->prepare) return TN_OK;
    return passed(api_->prepare(self_, exec, items, n));
  }
  int32_t apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) const {
    return passed(api_->apply(self_, exec, items, n));
  }
  void finish(const tn_step& step, tn_advice& advice) const {
    if (TN_HAS(api_, tn_optimizer_api, finish) && api_->finish) check(api_->finish(self_, &step, &advice));
  }
  std::string save() const {
    std::string blob;
    if (!saves()) return blob;
    const tn_sink sink{TN_SIZE_TO(tn_sink, write), 0, &blob, [](void* self, const void* bytes, uint64_t n) -> int32_t {
                         static_cast<std::string*>(self)->append(static_cast<const char*>(bytes), n);
                         return TN_OK;
                       }};
    check(api_->save(self_, &sink));
    return blob;
  }
  void load(std::string_view blob) const {
    if (saves())
      check(api_->load(self_, blob.data(), blob.size()));
    else if (!blob.empty())
      fail(TN_E_FORMAT, technique_ + ": the checkpoint holds a state that the inner optimizer has not");
  }
  // org.tenon.runs/1 of the inner optimizer, or null.
  const tn_runs* runs() const {
    const auto* table = static_cast<const tn_runs*>(extension(TN_EXT_RUNS));
    return table && TN_HAS(table, tn_runs, apply) ? table : nullptr;
  }
  int32_t apply_run(const tn_exec* exec, const tn_item& item, int64_t begin) const { return passed(runs()->apply(self_, exec, &item, begin)); }
  const void* extension(const char* id) const { return plugin_->get_extension ? plugin_->get_extension(id) : nullptr; }
  tn_optimizer* self() const { return self_; }

 private:
  bool saves() const { return TN_HAS(api_, tn_optimizer_api, load) && api_->save && api_->load; }
  static int32_t passed(int32_t status) {
    check(status);
    return status;
  }
  std::string technique_;
  const tn_plugin* plugin_ = nullptr;
  const tn_optimizer_api* api_ = nullptr;
  tn_optimizer* self_ = nullptr;
};

// Items as the inner optimizer sees them: without the wrapper's own first `own` states.
class InnerItems {
 public:
  // `own(item)`: how many states of the item are the wrapper's.
  template <class Own>
  InnerItems(const tn_item* const* items, uint64_t n, Own own) {
    for (uint64_t i = 0; i < n; ++i) {
      tn_item& copy = items_.emplace_back();
      std::memcpy(&copy, items[i], std::min<size_t>(items[i]->struct_size, sizeof copy));
      copy.struct_size = std::min<uint32_t>(items[i]->struct_size, TN_SIZE_TO(tn_item, rng));
      const uint32_t skipped = own(*items[i]);
      if (skipped > copy.n_states) fail(TN_E_ARGUMENT, "an item came without the states that were declared");
      copy.states += skipped, copy.n_states -= skipped;
      pointers_.push_back(&copy);
    }
  }
  InnerItems(const InnerItems&) = delete;
  tn_item& operator[](uint64_t i) { return items_[i]; }
  const tn_item* const* data() const { return pointers_.data(); }
  uint64_t size() const { return pointers_.size(); }

 private:
  std::deque<tn_item> items_;
  std::vector<const tn_item*> pointers_;
};

// An item's elements [begin, begin + n) as org.tenon.runs/1 takes them: flat views of its tensors, all of one size.
class ItemRun {
 public:
  ItemRun(const tn_item& whole, int64_t begin, int64_t n) : begin_(begin), n_(n), item_(whole) {
    const auto part = [&](const tn_tensor* t) -> tn_tensor* {
      if (!t) return nullptr;
      if (count(*t) != count(*whole.param)) fail(TN_E_ARGUMENT, "an item came with tensors of several sizes, of which no run can be taken");
      tn_tensor& run = tensors_.emplace_back(*t);
      run.ndim = 1, run.shape = &n_, run.strides = &stride_;
      run.byte_offset += static_cast<uint64_t>(begin) * t->dtype.bits / 8;
      return &run;
    };
    item_.param = part(whole.param), item_.master = part(whole.master), item_.grad = part(whole.grad);
    for (uint32_t i = 0; i < whole.n_states; ++i) states_.push_back(part(whole.states[i]));
    item_.states = states_.data();
  }
  ItemRun(const ItemRun&) = delete;
  tn_item& item() { return item_; }
  int64_t begin() const { return begin_; }

 private:
  int64_t begin_, n_, stride_ = 1;
  std::deque<tn_tensor> tensors_;
  std::vector<tn_tensor*> states_;
  tn_item item_;
};

}  // namespace tenon::sdk
