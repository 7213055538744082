#include "hosts/trainer/run/session.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <utility>

#include "core/error.h"
#include "hosts/trainer/run/adapter_steps.h"
#include "hosts/trainer/run/calibration.h"
#include "hosts/trainer/run/edits.h"
#include "hosts/trainer/run/segments.h"
#include "hosts/trainer/schedule/offload.h"

namespace tenon::trainer {
namespace {

constexpr uint32_t kInitStream = 0x41444150;  // random stream of adapter initialisation

void check_embeddings(const Techniques& t, bool train) {
  const auto trains = [](const Adapter* a) {
    return std::any_of(a->trained_roles.begin(), a->trained_roles.end(), [](uint32_t role) { return role == TN_ROLE_EMBEDDING || role == TN_ROLE_HEAD; });
  };
  if (t.embeddings && train && (t.adapters.empty() || std::any_of(t.adapters.begin(), t.adapters.end(), trains)))
    throw Error(TN_E_CONFLICT, "--embeddings holds the embedding and the head in codes, which then stay as they are, and this run trains them; drop it, or train an adapter of other weights");
  if (t.embeddings && t.weight_budget > 0) throw Error(TN_E_CONFLICT, "--weight-budget counts the linear weights alone, so --embeddings cannot be beside it; drop one of the two");
}

// {sum of squares, count of non-finite elements} of each tensor, with one wait for all.
std::vector<std::array<double, 2>> sums_of_squares(Engine& engine, const std::vector<const Tensor*>& tensors) {
  std::vector<std::array<double, 2>> results(tensors.size());
  if (tensors.empty()) return results;
  const auto* const ops = static_cast<const tn_ops*>(engine.api()->get_extension(TN_EXT_OPS));
  const Tensor out = engine.zeros(Category::kWorkspace, kF64, {static_cast<int64_t>(tensors.size()), 2});
  for (size_t i = 0; i < tensors.size(); ++i) {
    const int64_t row = static_cast<int64_t>(i);
    const Tensor sums = out.rows(row, row + 1).reshaped({2});
    engine.technique("sum_squares", Cost({tensors[i]}, 2), [&] { return ops->sum_squares(engine.device(), engine.stream(), tensors[i]->ref(), sums.ref()); });
  }
  engine.download(out, results.data());
  return results;
}

// Of these parameters' gradients, in their order, until one is not finite: its parameter is answered.
const Parameter* measure_all(const std::vector<Parameter*>& parameters, const std::function<Engine&(const Tensor&)>& engine_of, double& sum_of_squares) {
  std::map<Engine*, std::vector<const Tensor*>> gradients;
  for (const Parameter* p : parameters)
    if (p->updated_gradient()) gradients[&engine_of(p->updated_gradient())].push_back(&p->updated_gradient());
  std::map<const Tensor*, std::array<double, 2>> sums;
  for (const auto& [engine, tensors] : gradients) {
    const auto measured = sums_of_squares(*engine, tensors);
    for (size_t i = 0; i < tensors.size(); ++i) sums[tensors[i]] = measured[i];
  }
  for (const Parameter* p : parameters) {
    if (!p->updated_gradient()) continue;
    const auto [squares, bad] = sums.at(&p->updated_gradient());
    sum_of_squares += squares;
    if (bad != 0 || !std::isfinite(squares)) return p;
  }
  return nullptr;
}

}  // namespace

ModelOptions Session::model_options(const Techniques& t, const SessionOptions& o, const ModelSource& source) {
  ModelOptions m;
  m.storage = o.storage;
  m.quantizer = t.quantizer, m.embeddings = t.embeddings;
  // Coding what a tool left plain would make another model, and without calibration.
  if (t.decoder.stored.is_mix) m.plain = [&source](const std::string& weight) { return source.holds_plain(weight); };
  m.train_weights = o.train && t.adapters.empty() && !t.tunes_scales;
  m.train_scales = o.train && t.tunes_scales;
  m.wide_gradients = o.storage == kF32 || o.accumulate > 1;
  return m;
}

Session::Session(Engine& engine, const ModelSource& source, Techniques techniques, const SessionOptions& options, Engine* host)
    : engine_(engine),
      techniques_(std::move(techniques)),
      options_(options),
      stage_(options.train ? offload_stage(engine, options.memory.offload, options.offload_folder) : nullptr),
      model_(engine, source.config(), model_options(techniques_, options, source), techniques_.attention, options.sequence) {
  model_.save_through(stage_.get());
  for (Adapter* a : techniques_.adapters) model_.attach(*a);
  check_embeddings(techniques_, options_.train);
  allocate(source);
  const bool with_text = techniques_.quantizer && techniques_.quantizer->text_sequences() > 0;
  source.load(engine_, model_, techniques_.decoder, options_.seed, !with_text);
  source.start_mixers(engine_, model_, techniques_.decoder, options_.seed);
  make_base(source);
  if (techniques_.editor) edit_model(engine_, model_, techniques_, options_);
  std::vector<Parameter*> trained;
  for (Parameter& p : model_.parameters()) {
    for (const Adapter* a : techniques_.adapters)
      for (uint32_t role : a->trained_roles) p.trainable = p.trainable || (options_.train && p.role == role);
    if (p.trainable && p.value) trained.push_back(&p);
  }
  for (Parameter& p : model_.scales()) trained.push_back(&p);
  if (options_.train && techniques_.tunes_scales && trained.empty())
    throw Error(TN_E_CONFLICT, "this quantizer has no scales that an optimizer can move; choose one with f32 scales, such as nf4:double_quant=false");
  for (Adapter* a : techniques_.adapters) {
    for (auto& p : a->parameters) {
      if (!options_.train) p->trainable = false;
      if (p->trainable) trained.push_back(p.get());
    }
    start(*a, source);
    if (a->steps && engine_.dry() && options_.train) grow_to_largest(engine_, *a);
  }
  if (!options_.train && techniques_.kv_cache) {
    kv_codec_ = std::make_unique<KvCodec>(*techniques_.kv_cache);
    model_.cache_through(*kv_codec_, options_.kv_calibration, options_.calibrating);
  }
  if (options_.train) {
    if (trained.empty()) throw Error(TN_E_ARGUMENT, "nothing in this mix trains; drop --quantizer or add --adapter");
    start_optimizers(std::move(trained), host);
    if (techniques_.activations) {
      activation_codec_ = std::make_unique<ActivationCodec>(engine_, *techniques_.activations, source.config(), options_.seed, stage_.get());
      model_.save_through(activation_codec_.get());
    }
  }
}

void Session::start_optimizers(std::vector<Parameter*> trained, Engine* host) {
  if (host) {
    for (const Adapter* a : techniques_.adapters)
      if (a->steps) throw Error(TN_E_CONFLICT, "adapter " + a->name + " changes its parameters between steps, which --zero-offload keeps on the host; drop one of the two");
    host_updates_ = std::make_unique<HostUpdates>(engine_, *host, trained);
  }
  optimizer_ = std::make_unique<Optimizers>(host ? *host : engine_, techniques_.optimizers, std::move(trained), options_.update, options_.seed, host_updates_.get(),
                                            techniques_.states);
}

uint64_t Session::offloaded_bytes() const {
  return (stage_ ? stage_->peak_bytes() : 0) + (host_updates_ ? host_updates_->host().memory().use().total_peak : 0);
}

// A file that holds weights in segments knows their order, so that only those that fit are ever in memory.
void Session::allocate(const ModelSource& source) {
  const Quantizer* q = techniques_.quantizer;
  if (techniques_.weight_budget > 0 && !(q && q->segments))
    throw Error(TN_E_ARGUMENT, "--weight-budget is for quantizers whose weights come in segments, such as bitstack; drop it");
  if (!q || !q->segments || !techniques_.decoder.stored.is_mix) return model_.allocate();
  const std::vector<SegmentSizes> sizes = model_.segment_sizes();
  segment_order_ = source.segment_order();
  if (segment_order_.empty()) segment_order_ = natural_order(sizes);
  if (techniques_.weight_budget == 0) return model_.allocate();
  model_.allocate(fitting_segments(sizes, segment_order_, techniques_.weight_budget));
}

// Codes the weights with text in view, and chooses among their segments: the base alone, before any adapter has its starting values.
void Session::make_base(const ModelSource& source) {
  const Quantizer* q = techniques_.quantizer;
  const bool with_text = q && q->text_sequences() > 0, fit = q && q->segments && segment_order_.empty() && (techniques_.weight_budget > 0 || options_.order_segments);
  if (!with_text && !fit) return;
  std::vector<std::vector<Adapter*>> aside;
  for (Linear* l : model_.sites()) {
    if (l->owner && with_text)
      throw Error(TN_E_CONFLICT, "adapter " + l->owner->name + " holds the weight of " + l->path +
                                     ", so this quantizer cannot calibrate through the model; use a quantizer that needs no calibration");
    aside.push_back(std::move(l->adapters));
    l->adapters.clear();
  }
  if (with_text) calibrate(engine_, model_, source, techniques_, options_.seed, options_.calibration, options_.calibrating);
  if (fit) {
    segment_order_ = measure_order(engine_, model_, q->segment_plan, options_.calibration, options_.calibrating);
    if (techniques_.weight_budget > 0) fit_segments(engine_, model_, segment_order_, techniques_.weight_budget);
  }
  size_t next = 0;
  for (Linear* l : model_.sites()) l->adapters = std::move(aside[next++]);
}

// Starting values of an adapter's parameters.
void Session::start(Adapter& a, const ModelSource& source) {
  const std::vector<Linear*> sites = model_.sites();
  Tensor own;  // of the site below: the weight that the adapter takes over, while it does
  int32_t owned_site = -1;
  for (uint32_t id = 0; id < a.parameters.size(); ++id) {
    Parameter& p = *a.parameters[id];
    const tn_rng rng{options_.seed, p.uid, kInitStream};
    const auto like = a.base_site.find(id);
    const int32_t site = like != a.base_site.end() ? static_cast<int32_t>(like->second) : a.param_sites[id];
    const auto run = [&](const tn_base_linear* base, int64_t n) {
      engine_.with_workspace(std::max<uint64_t>(256 << 10, static_cast<uint64_t>(n) * 16), "adapter initialisation",
                             [&](const tn_exec* x) { return a.api->init_param(a.self, x, id, base, &rng, p.value.ref()); });
    };
    if (const auto norm = a.base_norm.find(id); norm != a.base_norm.end()) {
      Linear row;
      row.m = 1, row.n = norm->second->value.dim(0);
      row.with_base(engine_, norm->second->value.reshaped({1, row.n}), [&](const tn_base_linear* base) { run(base, row.n); });
      continue;
    }
    if (site < 0) {
      run(nullptr, 0);
      continue;
    }
    const Linear& l = *sites.at(site);
    if (const auto owned = a.owned.find(static_cast<uint32_t>(site)); owned != a.owned.end() && owned->second && owned_site != site) {
      own = Tensor();
      own = engine_.empty(Category::kWorkspace, kF32, {l.m, l.n}), owned_site = site;
      source.load_one(engine_, l.path + ".weight", l.uid, l.role, own, techniques_.decoder, options_.seed);
    }
    l.with_base(engine_, owned_site == site ? own : Tensor(), [&](const tn_base_linear* base) { run(base, l.n); });
  }
}

int64_t Session::trainable_parameters() const {
  int64_t n = 0;
  if (optimizer_)
    for (const Parameter* p : optimizer_->parameters()) n += p->value.count();
  return n;
}

bool Session::measure(const Parameter& p, double& sum_of_squares) {
  const auto [squares, bad] = engine_of(p.updated_gradient()).sum_squares(p.updated_gradient());
  sum_of_squares += squares;
  return bad == 0 && std::isfinite(squares);
}

bool Session::plan(int64_t step, int64_t total_steps) {
  return optimizer_->plan({sizeof(tn_step), static_cast<uint32_t>(options_.accumulate), step, total_steps, tokens_seen, options_.seed});
}

StepResult Session::step(int64_t step, int64_t total_steps, const std::vector<HostBatch>& micro_batches, double lr, double height) {
  StepResult r;
  r.step = step, r.lr = lr;
  const Rate rate{lr, height};
  for (const HostBatch& b : micro_batches)
    for (int32_t label : b.labels) r.tokens += label >= 0;
  const double weight = r.tokens > 0 ? 1.0 / static_cast<double>(r.tokens) : 0.0;
  if (host_updates_ && !std::exchange(values_settled_, true)) host_updates_->values_came();
  const tn_step abi_step{sizeof(tn_step), static_cast<uint32_t>(micro_batches.size()), step, total_steps, tokens_seen, options_.seed};
  optimizer_->plan(abi_step);
  const auto skip = [&](const std::string& why) {
    r.skipped = true;
    if (r.note.empty()) r.note = why + "; the step was skipped";
  };
  // A gradient of zeros is none: with it decay and momentum would still move the weights.
  if (r.tokens == 0) skip("no token of its batch is to be predicted");
  if (optimizer_->drives() && !r.skipped) return driven_step(std::move(r), abi_step, micro_batches, rate, weight);

  double nats = 0, squares = 0;
  const auto stop = [&](const std::string& where) { skip("NaN or Inf in " + where); };
  const GradientReady fused = [&](Parameter& p) {
    if (!p.gradient) return;
    if (host_updates_) host_updates_->take_gradient(p);
    if (!r.skipped && !measure(p, squares)) stop("the gradient of " + p.name + " (parameters updated before it in this step keep their update)");
    if (r.skipped)
      p.drop_gradient();
    else
      optimizer_->apply_one(p, rate, 1);
  };
  const GradientReady keep = [&](Parameter& p) {
    if (host_updates_) host_updates_->take_gradient(p);
  };
  for (size_t m = 0; m < micro_batches.size() && !r.skipped; ++m) {
    LinearCall call;
    call.step = step, call.micro_batch = static_cast<int64_t>(m), call.seed = options_.seed;
    // The host takes the gradient of every micro-batch, and adds them up.
    const bool last = m + 1 == micro_batches.size() || host_updates_;
    nats += model_.train(micro_batches[m], call, options_.memory, weight, last, options_.fused_backward ? fused : keep);
    if (!std::isfinite(nats)) stop("the loss");
  }
  r.loss = r.tokens > 0 ? nats * weight : std::numeric_limits<double>::quiet_NaN();
  if (!options_.fused_backward) {
    if (!r.skipped)
      if (const Parameter* const p = measure_all(optimizer_->parameters(), [&](const Tensor& t) -> Engine& { return engine_of(t); }, squares))
        stop("the gradient of " + p->name);
    if (!r.skipped) {
      const double norm = std::sqrt(squares);
      const double scale = options_.clip > 0 && norm > options_.clip ? options_.clip / (norm + 1e-6) : 1.0;
      optimizer_->apply_all(rate, scale);
    }
  }
  optimizer_->drop_gradients();
  if (host_updates_) host_updates_->finish();
  r.grad_norm = std::sqrt(squares);
  Advice advice = optimizer_->finish(abi_step, r.skipped ? std::nullopt : std::optional(r.loss));
  r.metrics = std::move(advice.metrics), r.degraded = advice.degraded, r.batch_multiplier = advice.batch_multiplier;
  tokens_seen += r.tokens;
  if (!r.skipped && !engine_.dry())
    for (Adapter* a : techniques_.adapters)
      if (a->steps) optimizer_->rebind(end_step(engine_, *a, step, total_steps, options_.seed));
  return r;
}

StepResult Session::driven_step(StepResult r, const tn_step& step, const std::vector<HostBatch>& micro_batches, Rate rate, double weight) {
  MemoryOptions memory = options_.memory;
  // The panel of a displaced weight takes its room from the tile of logits, so that a probe needs no more than inference does.
  memory.loss_tile_bytes = std::max(memory.evaluation_tile_bytes() - kDisplacedPanelBytes, memory.evaluation_tile_bytes() / 2);
  const DrivenStep driven = optimizer_->drive(step, rate, [&] {
    double nats = 0;
    for (const HostBatch& b : micro_batches) nats += model_.evaluate(b, nullptr, memory);
    return nats * weight;
  });
  r.loss = driven.loss, r.skipped = driven.skip;
  if (driven.skip)
    r.note = "NaN or Inf in a loss of the probes; the step was skipped";
  else
    optimizer_->apply_driven(rate);
  const Advice advice = optimizer_->finish(step, driven.skip ? std::nullopt : std::optional(r.loss));
  r.metrics = advice.metrics, r.degraded = advice.degraded, r.batch_multiplier = advice.batch_multiplier;
  tokens_seen += r.tokens;
  return r;
}

HostBatch shape_batch(int64_t sequences, int64_t length, int64_t vocab) {
  HostBatch b;
  b.sequences = sequences, b.length = length;
  const int64_t rows = sequences * length;
  b.ids.resize(rows), b.labels.resize(rows), b.positions.resize(rows);
  for (int64_t r = 0; r < rows; ++r) {
    b.ids[r] = static_cast<int32_t>((r * 7919 + 13) % vocab);
    b.positions[r] = static_cast<int32_t>(r % length);
    b.labels[r] = r % length + 1 < length ? static_cast<int32_t>(((r + 1) * 7919 + 13) % vocab) : -1;
  }
  return b;
}

}  // namespace tenon::trainer
