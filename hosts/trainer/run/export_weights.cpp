#include "hosts/trainer/run/export_weights.h"

#include <algorithm>
#include <list>
#include <memory>
#include <set>

#include "core/error.h"
#include "hosts/trainer/run/tensor_io.h"

namespace tenon::trainer {
namespace {

constexpr int64_t kPieceElements = 8 << 20;  // of one step through a weight

// w (f32, rows [begin, end) of a linear's weight) += the delta of one adapter.
void add_delta(Engine& engine, const Adapter& a, uint32_t site, int64_t begin, int64_t end, const Tensor& w) {
  if (!a.api->merge_rows) throw Error(TN_E_UNSUPPORTED, "adapter " + a.name + " cannot be merged into weights; keep it as an adapter");
  std::list<Tensor::Ref> refs;
  std::list<tn_param_view> views;
  std::vector<const tn_param_view*> pointers;
  for (uint32_t id : a.site_params.at(site)) {
    tn_tensor* value = &refs.emplace_back(a.parameters[id]->value.ref()).t;
    pointers.push_back(&views.emplace_back(tn_param_view{sizeof(tn_param_view), id, value, nullptr}));
  }
  const tn_dtype f32 = kF32;
  tn_estimate e{sizeof(tn_estimate)};
  check(a.api->estimate(a.self, engine.api(), engine.device(), site, end - begin, &f32, 0, &e), "planning a merge");
  engine.with_workspace(e.workspace_bytes, "merge", [&](const tn_exec* x) {
    return a.api->merge_rows(a.self, x, site, pointers.data(), pointers.size(), begin, end, w.ref());
  });
}

ExportWeight dense(Engine& engine, const Parameter& p) {
  ExportWeight w{p.name, file_shape(p.value), p.role, p.uid, p.block};
  w.read = [&engine, &p](int64_t begin, int64_t end, const Tensor& out) { engine.axpby(1, p.value.rows(begin, end), 0, out); };
  return w;
}

ExportWeight of_linear(Engine& engine, const Linear& l, bool merge) {
  ExportWeight w{l.path + ".weight", {l.m, l.n}, l.role, l.uid, l.block};
  w.linear = l.block >= 0;
  w.coded = l.quantized ? &*l.quantized : nullptr;
  w.changed = l.quantized.has_value() || l.owner || (merge && !l.adapters.empty());
  w.read = [&engine, &l, merge](int64_t begin, int64_t end, const Tensor& out) {
    if (l.owner)
      engine.zero(out);  // the adapter adds the whole weight
    else
      l.read_rows(engine, begin, end, out);
    if (!merge && !l.owner) return;
    for (const Adapter* a : l.adapters) add_delta(engine, *a, l.site, begin, end, out);
  };
  return w;
}

}  // namespace

ExportWeights weights_of(Session& session, bool merge) {
  Engine& engine = session.engine();
  Model& model = session.model();
  ExportWeights all;
  std::set<const Parameter*> taken;
  for (const Linear* l : model.sites())
    if (merge && l->identity && !l->adapters.empty())
      throw Error(TN_E_UNSUPPORTED, "adapter " + l->adapters[0]->name + " sits behind " + l->path + ", where no weight could take it; keep it as an adapter");
  // Adapted, a head and an embedding that are one weight become two.
  const bool apart = merge && (!model.lookup().adapters.empty() || !model.head().adapters.empty());
  if (merge && !model.lookup().adapters.empty()) taken.insert(model.lookup().weight), all.push_back(of_linear(engine, model.lookup(), true));
  for (const Linear* l : model.linears()) {
    if (l->absent || (l->tied && !apart)) continue;
    if (!l->tied) taken.insert(l->weight);
    all.push_back(of_linear(engine, *l, merge));
    all.back().plain = session.techniques().quantizer && l->block >= 0 && !l->coded;
  }
  for (const Parameter& p : model.parameters())
    if (p.value && p.saved && !taken.contains(&p)) all.push_back(dense(engine, p));
  return all;
}

bool untied(const ExportWeights& weights, const ModelSource& source) {
  return source.config().tied && std::any_of(weights.begin(), weights.end(), [](const ExportWeight& w) { return w.role == TN_ROLE_HEAD; });
}

ExportWeights weights_of(Engine& engine, const ModelSource& source, const Runtime& runtime, const Techniques& techniques) {
  if (source.is_preset()) throw Error(TN_E_UNSUPPORTED, source.path() + " has random weights, which are not worth writing; train it first");
  // The names and shapes are those of a model that is never filled.
  const auto dry = runtime.engine(kF32, 0, true);
  const auto set = runtime.instantiate();
  Techniques plain = set->techniques;
  plain.quantizer = nullptr, plain.adapters.clear();
  SessionOptions options;
  options.sequence = 2, options.train = false;
  Session shape(*dry, source, plain, options);
  ExportWeights all = weights_of(shape, false);
  struct Current {
    std::string name;
    Tensor value;
  };
  const auto current = std::make_shared<Current>();  // pieces are asked for in order, so one tensor is enough
  for (ExportWeight& w : all)
    w.read = [&engine, &source, &techniques, current, name = w.name, shape = w.shape](int64_t begin, int64_t end, const Tensor& out) {
      if (current->name != name) {
        current->value = Tensor();
        current->value = engine.empty(Category::kWorkspace, kF32, shape.data(), static_cast<int>(shape.size()));
        source.read(engine, name, current->value, techniques.decoder);
        current->name = name;
      }
      engine.axpby(1, current->value.rows(begin, end), 0, out);
    };
  return all;
}

Tensor whole(Engine& engine, const ExportWeight& weight) {
  const Tensor all = engine.empty(Category::kWorkspace, kF32, weight.shape.data(), static_cast<int>(weight.shape.size()));
  weight.read(0, weight.rows(), all);
  return all;
}

void write_weight_as(Engine& engine, const ExportWeight& weight, tn_dtype dtype, const std::function<void(ByteSpan)>& write) {
  const int64_t step = std::clamp<int64_t>(kPieceElements / std::max<int64_t>(weight.width(), 1), 1, std::max<int64_t>(weight.rows(), 1));
  std::vector<int64_t> shape = weight.shape;
  for (int64_t r = 0; r < weight.rows(); r += step) {
    const int64_t end = std::min(r + step, weight.rows());
    shape[0] = end - r;
    const Tensor piece = engine.empty(Category::kWorkspace, kF32, shape.data(), static_cast<int>(shape.size()));
    weight.read(r, end, piece);
    write_tensor_as(engine, piece, dtype, write);
  }
}

}  // namespace tenon::trainer
