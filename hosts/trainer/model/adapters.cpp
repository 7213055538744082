// Binding an adapter plugin to the model's linears.
#include "core/error.h"
#include "hosts/trainer/model/model.h"

namespace tenon::trainer {
namespace {

// uids of adapter parameters lie above those of any model: 2^17 per adapter.
constexpr uint32_t kAdapterUid = 1u << 17;

struct Binding {
  Engine* engine;
  Adapter* adapter;

  static int32_t site(void* self, uint32_t id, uint32_t retention) {
    static_cast<Binding*>(self)->adapter->retention[id] = retention;
    return TN_OK;
  }
  static int32_t param(void* self, const tn_adapter_param* p) {
    auto& b = *static_cast<Binding*>(self);
    Adapter& a = *b.adapter;
    try {
      if (p->id != a.parameters.size()) throw Error(TN_E_ARGUMENT, "an adapter declared parameter ids that are not dense from 0");
      auto q = std::make_unique<Parameter>();
      q->name = p->file_key;
      q->uid = kAdapterUid * (a.index + 1) + p->id;
      q->role = TN_ROLE_ADAPTER;
      q->lr_scale = p->lr_scale, q->decay_scale = p->decay_scale;
      q->trainable = (p->flags & TN_ADAPTER_PARAM_TRAINABLE) != 0;
      q->gradient_category = Category::kGradients;
      q->value = b.engine->empty(Category::kAdapter, kF32, p->shape, p->ndim);
      if (p->site >= 0) a.site_params[static_cast<uint32_t>(p->site)].push_back(p->id);
      a.parameters.push_back(std::move(q));
      return TN_OK;
    } catch (const Error& e) {
      b.engine->host()->error(b.engine->host(), e.code(), e.what());
      return e.code();
    }
  }
};

}  // namespace

void Model::attach(Adapter& adapter) {
  const std::vector<Linear*> all = linears();
  std::vector<tn_site> sites;
  std::vector<const tn_site*> pointers;
  for (const Linear* l : all)
    sites.push_back({sizeof(tn_site), l->site, TN_PLACE_LINEAR, l->role,
                     (l->quantized ? uint32_t{TN_LINEAR_QUANTIZED} : 0u) | (l->tied ? uint32_t{TN_LINEAR_TIED} : 0u), l->block, l->m, l->n,
                     l->path.c_str()});
  for (const tn_site& s : sites) pointers.push_back(&s);
  Binding binding{&engine_, &adapter};
  const tn_adapter_sink sink{sizeof(tn_adapter_sink), 0, &binding, Binding::site, Binding::param};
  check(adapter.api->bind(adapter.self, pointers.data(), pointers.size(), &sink), "binding an adapter");
  for (const auto& [site, retention] : adapter.retention) {
    adapter.site_params.try_emplace(site);
    all.at(site)->adapters.push_back(&adapter);
  }
}

}  // namespace tenon::trainer
