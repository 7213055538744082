// Binding an adapter plugin to the model's linears and sub-layers.
#include <algorithm>

#include "core/error.h"
#include "hosts/trainer/model/model.h"

namespace tenon::trainer {
namespace {

// uids of adapter parameters lie above those of any model: 2^17 per adapter.
constexpr uint32_t kAdapterUid = 1u << 17;

tn_dtype dtype_of(uint32_t flags) {
  return flags & TN_ADAPTER_PARAM_INT32 ? kI32 : flags & TN_ADAPTER_PARAM_INT8 ? tn_dtype{TN_INT, 8, 1} : kF32;
}

struct Binding {
  Engine* engine;
  Adapter* adapter;
  const std::vector<Linear*>* sites;

  template <class Body>
  static int32_t guarded(void* self, Body&& body) {
    auto& b = *static_cast<Binding*>(self);
    try {
      body(b);
      return TN_OK;
    } catch (const Error& e) {
      b.engine->host()->error(b.engine->host(), e.code(), e.what());
      return e.code();
    }
  }
  static int32_t site(void* self, uint32_t id, uint32_t retention) {
    return guarded(self, [&](Binding& b) {
      if (id >= b.sites->size()) throw Error(TN_E_ARGUMENT, "an adapter took a site that does not exist");
      b.adapter->retention[id] = retention;
    });
  }
  static int32_t param(void* self, const tn_adapter_param* p) {
    return guarded(self, [&](Binding& b) {
      Adapter& a = *b.adapter;
      if (p->id != a.parameters.size()) throw Error(TN_E_ARGUMENT, "an adapter declared parameter ids that are not dense from 0");
      auto q = std::make_unique<Parameter>();
      q->name = p->file_key;
      q->uid = kAdapterUid * (a.index + 1) + p->id;
      q->role = TN_ROLE_ADAPTER;
      q->lr_scale = p->lr_scale, q->decay_scale = p->decay_scale;
      q->trainable = (p->flags & TN_ADAPTER_PARAM_TRAINABLE) != 0, q->saved = (p->flags & TN_ADAPTER_PARAM_SAVED) != 0;
      q->gradient_category = Category::kGradients;
      q->value = b.engine->empty(Category::kAdapter, dtype_of(p->flags), p->shape, p->ndim);
      a.parameters.push_back(std::move(q));
      a.param_sites.push_back(p->site);
    });
  }
  static int32_t own(void* self, uint32_t id, uint32_t from_base) {
    return guarded(self, [&](Binding& b) {
      const Linear& l = *b.sites->at(id);
      if (l.identity || l.tied) throw Error(TN_E_UNSUPPORTED, l.path + " has no weight of its own that an adapter could hold; leave it out of target_modules");
      if (!l.adapters.empty()) throw Error(TN_E_CONFLICT, "an adapter that holds the weight of " + l.path + " must come before the others on it; change the order");
      b.adapter->owned[id] = from_base != 0;
    });
  }
  static int32_t train(void* self, uint32_t role) {
    static_cast<Binding*>(self)->adapter->trained_roles.push_back(role);
    return TN_OK;
  }
};

}  // namespace

void Model::attach(Adapter& adapter) {
  const std::vector<Linear*> all = sites();
  std::vector<tn_site> infos;
  std::vector<const tn_site*> pointers;
  for (const Linear* l : all)
    infos.push_back({sizeof(tn_site), l->site, l->identity ? TN_PLACE_SUBLAYER : uint32_t{TN_PLACE_LINEAR}, l->role,
                     l->flags() | (options_.quantizer && l->block >= 0 && !l->identity && !l->owner ? uint32_t{TN_LINEAR_QUANTIZED} : 0u), l->block,
                     l->m, l->n, l->path.c_str()});
  for (const tn_site& s : infos) pointers.push_back(&s);
  Binding binding{&engine_, &adapter, &all};
  const tn_adapter_sink sink{sizeof(tn_adapter_sink), 0, &binding, Binding::site, Binding::param, Binding::own, Binding::train};
  check(adapter.api->bind(adapter.self, pointers.data(), pointers.size(), &sink), "binding an adapter");
  for (const auto& [site, retention] : adapter.retention) {
    std::vector<uint32_t>& ids = adapter.site_params[site];
    for (uint32_t id = 0; id < adapter.parameters.size(); ++id)
      if (adapter.param_sites[id] < 0 || adapter.param_sites[id] == static_cast<int32_t>(site)) ids.push_back(id);
    all[site]->adapters.push_back(&adapter);
  }
  for (const auto& [site, from_base] : adapter.owned) all.at(site)->owner = &adapter;
  adapters_.push_back(&adapter);
}

}  // namespace tenon::trainer
