// Trainers: a recipe, resolved and checked, that is planned and run.
#include "tenon/trainer.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/json.h"
#include "core/plugins/host.h"
#include "core/sentence.h"
#include "hosts/cli/train_flags.h"
#include "hosts/trainer/c_api/border.h"
#include "hosts/trainer/run/answers.h"
#include "hosts/trainer/run/features.h"

using namespace tenon;
using trainer::c_api::guard;
using trainer::c_api::need;

struct tn_trainer {
  cli::po::variables_map values;
  Catalog catalog;
  trainer::TrainOptions options;
  std::vector<std::string> notes;  // what the flags themselves have to say
  std::unique_ptr<trainer::Runtime> runtime{};
  std::atomic<bool> stop{false}, busy{false};
};

namespace {

// One call at a time: a second one, from a callback or another thread, is refused instead of corrupting the first.
class Turn {
 public:
  explicit Turn(tn_trainer* t) : trainer_(t) {
    need(t, "trainer");
    if (t->busy.exchange(true)) throw Error(TN_E_STATE, "this trainer is in a call already; wait for it, or make another trainer");
  }
  ~Turn() { trainer_->busy = false; }
  Turn(const Turn&) = delete;

 private:
  tn_trainer* trainer_;
};

// The recipe's own number of threads, for this thread's parallel work during a call.
class Threads {
 public:
  explicit Threads(const cli::po::variables_map& values) : before_(omp_get_max_threads()) { cli::apply_threads(values); }
  ~Threads() { omp_set_num_threads(before_); }
  Threads(const Threads&) = delete;

 private:
  int before_;
};

char* text_of(const nlohmann::json& json) { return trainer::c_api::copy_text(json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)); }

const cli::po::options_description& recipe_options() {
  static const cli::po::options_description* const options = [] {
    auto* const made = new cli::po::options_description("Recipe");
    cli::add_train_flags(*made);
    return made;
  }();
  return *options;
}

void need_key(const tn_trainer& t, const char* key, const char* what) {
  if (cli::value_or<std::string>(t.values, key, "").empty()) throw Error(TN_E_ARGUMENT, std::string("the recipe has no \"") + key + "\"; give " + what);
}

// The caller's events in the trainer's terms.
trainer::TrainEvents events_of(tn_trainer& t, const tn_trainer_events* given, trainer::Session*& session) {
  trainer::TrainEvents events;
  events.stop = &t.stop;
  events.ready = [&session](trainer::Session& s, int64_t) { session = &s; };
  if (!given) return events;
  if (!TN_HAS(given, tn_trainer_events, step)) throw Error(TN_E_ARGUMENT, "tn_trainer_events.struct_size is not set");
  const tn_trainer_events e = {given->struct_size, 0, given->self, given->step, TN_HAS(given, tn_trainer_events, evaluated) ? given->evaluated : nullptr,
                               TN_HAS(given, tn_trainer_events, note) ? given->note : nullptr};
  if (e.note) events.note = [e](const std::string& line) { e.note(e.self, clean_sentence(line).c_str()); };
  if (e.evaluated) events.evaluated = [e](const trainer::EvaluationPoint& p) { e.evaluated(e.self, p.step, p.value.loss, p.value.perplexity); };
  if (!e.step) return events;
  events.step = [e, &t, &session](const trainer::StepResult& r, int64_t total, double tokens_per_second) {
    const MemoryUse use = session->engine().memory().use();
    const uint32_t flags = (r.skipped ? uint32_t{TN_TRAINER_SKIPPED} : 0u) | (r.degraded ? uint32_t{TN_TRAINER_DEGRADED} : 0u);
    const tn_trainer_step step = {TN_SIZE_TO(tn_trainer_step, peak_bytes), flags, r.step, total, r.tokens, r.loss, r.lr, r.grad_norm, tokens_per_second,
                                  use.total_live, use.total_peak};
    if (e.step(e.self, &step) != 0) t.stop = true;
  };
  return events;
}

}  // namespace

int32_t tn_trainer_recipe_keys(char** out) {
  return guard([&] {
    need(out, "json");
    nlohmann::json keys = nlohmann::json::array();
    for (const auto& option : recipe_options().options()) {
      const auto& value = *option->semantic();
      boost::any fallback;
      nlohmann::json key{{"name", option->long_name()}, {"doc", option->description()}, {"repeats", value.is_composing()}, {"default", nullptr}};
      key["switch"] = value.max_tokens() == 0;
      if (value.apply_default(fallback)) key["default"] = boost::any_cast<std::string>(fallback);
      keys.push_back(std::move(key));
    }
    *out = text_of(keys);
  });
}

int32_t tn_trainer_create(const char* const* stores, uint64_t n, const char* recipe, tn_trainer** out) {
  return guard([&] {
    need(recipe, "recipe");
    need(out, "out");
    if (n > 0) need(stores, "stores");
    std::vector<std::string> folders;
    for (uint64_t i = 0; i < n; ++i) need(stores[i], "stores"), folders.emplace_back(stores[i]);
    JsonLimits limits;
    limits.unique_keys = true;
    cli::po::variables_map values;
    cli::parse(cli::recipe_arguments(parse_json(recipe, "the recipe", limits), "the recipe"), recipe_options(), {}, "", values);
    Catalog catalog = trainer::open_catalog(folders);
    trainer::MixRequest request = cli::mix_request(catalog, values, true);
    const trainer::TrainOptions options = cli::train_options(values, request);
    std::unique_ptr<tn_trainer> made(new tn_trainer{std::move(values), std::move(catalog), options, {}});
    need_key(*made, "model", "a Hugging Face folder, a .gguf file or a preset");
    const Threads threads(made->values);
    made->runtime = std::make_unique<trainer::Runtime>(made->catalog, request);
    if (std::string note = cli::settle_defaults(made->options, *made->runtime); !note.empty()) made->notes.push_back(std::move(note));
    *out = made.release();
  });
}

void tn_trainer_destroy(tn_trainer* t) { delete t; }

int32_t tn_trainer_plan(tn_trainer* t, char** out) {
  return guard([&] {
    const Turn turn(t);
    need(out, "json");
    const Threads threads(t->values);
    const trainer::TrainOptions& o = t->options;
    const trainer::ModelSource source = cli::open_model(t->values);
    const trainer::RunShape shape{o.batch, o.session.sequence, o.held_out > 0 || !o.evaluation_data.empty(), std::max<int64_t>(o.steps, 1)};
    const trainer::RunMemory use = trainer::plan_run(*t->runtime, source, o.session, shape, o.compute);
    std::vector<trainer::Alternative> ways;
    if (o.memory_limit > 0 && use.total_peak > o.memory_limit)
      ways = trainer::what_would_fit(*t->runtime, source, o.session, shape, o.compute, o.memory_limit);
    *out = text_of(trainer::plan_json(use, o.memory_limit, ways, source.config().parameters()));
  });
}

int32_t tn_trainer_run(tn_trainer* t, const tn_trainer_events* given, char** out) {
  return guard([&] {
    const Turn turn(t);
    need_key(*t, "data", "a text or JSON lines file");
    need_key(*t, "output", "a folder for metrics, checkpoints and the result");
    trainer::Session* session = nullptr;
    const trainer::TrainEvents events = events_of(*t, given, session);
    const Threads threads(t->values);
    const trainer::ModelSource source = cli::open_model(t->values);
    const trainer::TextModel text = cli::open_text_model(t->values, source);
    if (events.note)
      for (const std::string& note : t->notes) events.note(note);
    struct Reset {  // a stop counts for one run
      std::atomic<bool>& stop;
      ~Reset() { stop = false; }
    } const reset{t->stop};
    const trainer::TrainResult result = trainer::train(*t->runtime, source, text, t->options, events);
    if (out) *out = text_of(trainer::result_json(result, source.config().parameters()));
  });
}

void tn_trainer_stop(tn_trainer* t) {
  if (t) t->stop = true;
}
