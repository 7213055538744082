// An adapter on a small model of linears, driven as a host drives it, with every buffer fenced.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "hosts/conformance/numbers.h"
#include "hosts/conformance/subject.h"
#include "tenon/adapter.h"

namespace tenon::conformance {

struct AdapterCall {
  uint32_t flags = TN_CALL_TRAIN | TN_CALL_SAVE;
  int64_t row_begin = 0;
  double scale = 1;
  uint8_t poison = 0xFF;
  bool longer = false;
};

class AdapterRun {
 public:
  // Throws NotApplicable where the plugin refuses the setting or takes none of the usual linears.
  AdapterRun(Subject& subject, const Spec& spec, const char* config_json = nullptr, bool longer = false);
  ~AdapterRun();

  // The linears that it took, by id, and their sizes.
  const std::vector<uint32_t>& taken() const { return taken_; }
  int64_t m(uint32_t site) const { return sites_[site].value.m; }
  int64_t n(uint32_t site) const { return sites_[site].value.n; }
  const std::string& path(uint32_t site) const { return paths_[site]; }
  std::vector<float> weight(uint32_t site) const;  // the frozen W [m, n]
  bool owns(uint32_t site) const { return owned_.contains(site); }

  struct Parameter {
    std::string key;
    int32_t site;
    bool trainable, changes;  // changes: a buffer that training changes, such as statistics and choices
    std::unique_ptr<Tensor> value, grad;
  };
  std::vector<Parameter>& parameters() { return parameters_; }
  // Parameters of a site that train.
  std::vector<Parameter*> trained(uint32_t site);
  // Starting values by the plugin, or random ones that make every part of the delta matter.
  void initialise(uint8_t poison = 0xFF);
  void randomise();
  void clear_gradients();

  struct Saved;
  // y [rows, m]; what it saves for backward goes into `saved`, which may be null. without_y: the plugin is told that y
  // is not wanted.
  std::vector<float> forward(uint32_t site, const std::vector<float>& x, Saved* saved, const AdapterCall& call = {},
                             tn_dtype dtype = {TN_FLOAT, 32, 1}, bool without_y = false);
  // dx [rows, n]; parameter gradients are added to.
  std::vector<float> backward(uint32_t site, const std::vector<float>& dy, Saved& saved, const AdapterCall& call = {},
                              double beta = 0, const std::vector<float>* dx_before = nullptr,
                              tn_dtype dtype = {TN_FLOAT, 32, 1});
  // w + delta over rows [begin, end); the status where the plugin refuses.
  int32_t merge(uint32_t site, int64_t begin, int64_t end, std::vector<float>& w);
  std::string config();

  const tn_adapter_api& api() const { return api_; }
  Bench& bench() { return bench_; }

 private:
  struct Base;
  struct Binding;
  std::vector<Longer<tn_param_view>> views(uint32_t site, bool gradients, bool longer);
  uint64_t workspace(uint32_t site, int64_t rows, tn_dtype dtype, bool backward);

  Bench& bench_;
  const tn_adapter_api& api_;
  std::unique_ptr<Instance<tn_adapter_api, tn_adapter>> instance_;
  std::vector<Longer<tn_site>> sites_;
  std::vector<std::string> paths_;
  std::vector<std::unique_ptr<Tensor>> weights_;
  std::vector<uint32_t> taken_;
  std::set<uint32_t> owned_;
  std::vector<Parameter> parameters_;
};

// What a forward call left, in slots.
struct AdapterRun::Saved {
  struct Slot {
    std::unique_ptr<Tensor> own;
    Tensor* input = nullptr;
    tn_saved view{};
  };
  Bench* bench = nullptr;
  std::map<uint32_t, Slot> slots;
  std::unique_ptr<Tensor> x;
  std::string fault;
  bool may_save = true;
};

}  // namespace tenon::conformance
