// The catalog's relation, walked: of every optimizer, adapter, quantizer and attention that is installed, mixed with each other and with the host's
// features, a sample of what it allows is trained, planned and resumed, and a sample of what it forbids is refused for the reasons that the manifests give.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <random>
#include <set>
#include <span>

#include "core/error.h"
#include "core/files/safetensors_writer.h"
#include "hosts/trainer/run/calibration.h"
#include "hosts/trainer/run/checkpoint.h"
#include "tests/unit/trainer/tiny.h"

namespace tenon::trainer {
namespace {

// Settings for a model of 64 × 128 matrices; a plugin that is not named here is taken with its defaults.
const std::map<std::string, std::string> kSettings = {
    {"galore", "rank=8"},
    {"fira", "rank=8"},
    {"cosmos", "rank=8"},
    {"lisa", "activated_layers=1,interval_steps=2"},
    {"mkor", "inner=\"adamw\""},
    {"flashdp", "noise_multiplier=0.01"},
    {"mezo", "eps=0.01"},
    {"qzo", "relative=true,clip=1000"},
    {"nf4", "double_quant=false"},
    {"gguf-blocks", "type=Q5_0"},
    {"gptq", "bits=4,group_size=32,samples=4,sample_length=14"},
    {"bitstack", "k=4,niter=4,nsamples=4,sample_length=14,score_samples=2,score_length=14"},
    {"efficientqat", "bits=4,group_size=32,scale_bits=32,train_size=4,training_seqlen=14,val_size=0,epochs=1"},
    {"lora", "r=4,target_modules=all-linear"},
    {"dora", "r=4,target_modules=all-linear"},
    {"paca", "r=4"},
    {"sltrain", "r=4,sp_ratio=0.1"},
    {"lr-qat", "r=4"},
    {"compacter", "hypercomplex_division=2,reduction_factor=4"},
    {"wta-crs", "sample_ratio=0.5,min_rows=4,tune_weights=true,target_modules=all-linear"},
    {"qst", "reduction=2,r=4,output_logit=0"},
    {"lst", "reduction_factor=2"},
    {"meft", "variant=1"},
    {"increlora", "init_warmup=1,incre_interval=2,score_every=1,target_r=2"},
};

// Rates at which a tiny model learns in a few steps. Optimizers that see losses alone need more steps than a test has: theirs must change the loss.
double rate(const std::string& optimizer, bool adapter) {
  if (optimizer == "mezo" || optimizer == "qzo") return 1e-4;
  if (optimizer == "sgd") return adapter ? 0.5 : 0.05;
  if (optimizer == "cosmos") return adapter ? 5e-2 : 1e-2;
  return adapter ? 1e-2 : 2e-3;
}
bool drives(const std::string& optimizer) { return optimizer == "mezo" || optimizer == "qzo"; }

struct Mix {
  std::string optimizer, adapter, quantizer, attention;
  bool fused = false, clip = false;  // update inside backward; clipping by the global norm

  static std::string spec(const std::string& id) {
    const auto s = kSettings.find(id);
    return s == kSettings.end() || id.empty() ? id : id + ":" + s->second;
  }
  MixRequest request() const {
    MixRequest r = tiny::mix(spec(optimizer), adapter.empty() ? std::vector<std::string>{} : std::vector<std::string>{spec(adapter)}, spec(quantizer));
    r.attention = spec(attention);
    if (fused) r.run_tags.push_back("run:fused-backward");
    if (clip) r.run_tags.push_back("run:clip-global-norm");
    return r;
  }
  std::string name() const {
    return optimizer + " + " + (adapter.empty() ? "no adapter" : adapter) + " + " + (quantizer.empty() ? "dense" : quantizer) + " + " + attention +
           (fused ? " + fused backward" : "") + (clip ? " + clipping" : "");
  }
};

// How GoogleTest names a mix in what it prints.
void PrintTo(const Mix& mix, std::ostream* out) { *out << mix.name(); }

const Catalog& catalog() {
  static const Catalog c = open_catalog({std::string(TENON_BINARY_DIR) + "/lib/tenon"});
  return c;
}

std::vector<std::string> installed(const char* kind, const char* tag = "") {
  std::vector<std::string> ids;
  for (const PluginRow& row : catalog().list({.kind = kind, .tag = tag, .layout = "", .backend = "onednn"})) ids.push_back(row.id);
  std::sort(ids.begin(), ids.end());
  return ids;
}

std::vector<MixReason> refusals(const Mix& mix) {
  const MixRequest r = mix.request();
  std::vector<Spec> others;
  for (const std::string& a : r.adapters) others.push_back(catalog().spec(TN_KIND_ADAPTER, a));
  if (!r.quantizer.empty()) others.push_back(catalog().spec(TN_KIND_QUANTIZER, r.quantizer));
  others.push_back(catalog().spec(TN_KIND_ATTENTION, r.attention));
  std::vector<std::string> tags = r.run_tags;
  tags.insert(tags.end(), {"device:onednn", "dtype:f32"});
  return check_mix(catalog(), resolve_optimizers(catalog(), r.optimizer), others, tags).reasons;
}

constexpr size_t kSample = 48;

// A model of random weights in which rows fill the blocks of 32 and 64 that quantizers have.
std::string random_model(const tiny::Folder& folder) {
  constexpr int64_t kHidden = 64, kWide = 128, kKeys = 32, kVocab = 96;
  const std::string to = folder / "model";
  std::filesystem::create_directories(to);
  std::ofstream(to + "/config.json") << R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "max_position_embeddings": 64, "tie_word_embeddings": false, "torch_dtype": "float32"})";
  std::vector<TensorSpec> tensors = {{"model.embed_tokens.weight", FileDtype::kF32, {kVocab, kHidden}},
                                     {"model.norm.weight", FileDtype::kF32, {kHidden}},
                                     {"lm_head.weight", FileDtype::kF32, {kVocab, kHidden}}};
  for (const char* block : {"model.layers.0.", "model.layers.1."}) {
    const auto add = [&](const char* name, std::vector<int64_t> shape) { tensors.push_back({block + std::string(name) + ".weight", FileDtype::kF32, std::move(shape)}); };
    add("input_layernorm", {kHidden}), add("post_attention_layernorm", {kHidden});
    add("self_attn.q_proj", {kHidden, kHidden}), add("self_attn.o_proj", {kHidden, kHidden});
    add("self_attn.k_proj", {kKeys, kHidden}), add("self_attn.v_proj", {kKeys, kHidden});
    add("mlp.gate_proj", {kWide, kHidden}), add("mlp.up_proj", {kWide, kHidden}), add("mlp.down_proj", {kHidden, kWide});
  }
  SafetensorsWriter file(to + "/model.safetensors", tensors);
  std::mt19937 random(7);
  std::normal_distribution<float> normal(0, 0.1f);
  for (const TensorSpec& t : tensors) {
    std::vector<float> values(tensor_bytes(t) / sizeof(float), 1.0f);
    if (t.shape.size() == 2)
      for (float& v : values) v = normal(random);
    file.write(t.name, std::as_bytes(std::span(values)));
  }
  file.commit();
  return to;
}

// Two walks through all mixes in an order that is always the same. Allowed ones: of a few at random the one whose parts have trained and been asked about
// least so far is asked about. Refused ones: at random, among them codecs that hold no weights.
struct Walk {
  std::vector<Mix> allowed, refused;

  Walk() {
    std::mt19937_64 random(1);
    std::map<std::string, int> seen;
    std::set<std::string> asked;
    for (int tries = 0; tries < 4000 && allowed.size() < kSample; ++tries) {
      Mix best;
      double most = -1;
      for (int i = 0; i < 50; ++i) {
        const Mix mix = any(random, weights_);
        if (asked.count(mix.name())) continue;
        double worth = 0;
        for (const std::string& part : parts(mix)) worth += 1.0 / (1 + seen[part]);
        if (worth > most) most = worth, best = mix;
      }
      if (most < 0) continue;
      asked.insert(best.name());
      const bool runs = refusals(best).empty();
      if (runs) allowed.push_back(best);
      for (const std::string& part : parts(best)) seen[part] += runs ? 16 : 1;
    }
    for (const auto& [of, part] : {std::pair{&optimizers_, &Mix::optimizer}, {&adapters_, &Mix::adapter}, {&weights_, &Mix::quantizer}, {&attention_, &Mix::attention}})
      for (const std::string& id : *of) add_one_with(id, part, random);
    for (int tries = 0; tries < 4000 && refused.size() < kSample; ++tries) {
      const Mix mix = any(random, quantizers_);
      if (asked.insert(mix.name()).second && !refusals(mix).empty()) refused.push_back(mix);
    }
  }

 private:
  std::vector<std::string> optimizers_ = installed("optimizer"), adapters_ = with_none("adapter"), quantizers_ = with_none("quantizer"), weights_ = with_none("quantizer", "quantizer:weight"),
                           attention_ = installed("attention");

  // What fits with little was not met by chance: it is looked for.
  void add_one_with(const std::string& id, std::string Mix::*part, std::mt19937_64& random) {
    if (std::any_of(allowed.begin(), allowed.end(), [&](const Mix& m) { return m.*part == id; })) return;
    for (int tries = 0; tries < 2000; ++tries) {
      Mix mix = any(random, weights_);
      mix.*part = id;
      if (refusals(mix).empty()) return allowed.push_back(mix);
    }
  }
  static std::vector<std::string> with_none(const char* kind, const char* tag = "") {
    std::vector<std::string> ids = installed(kind, tag);
    ids.insert(ids.begin(), "");
    return ids;
  }
  Mix any(std::mt19937_64& random, const std::vector<std::string>& quantizers) const {
    const auto one = [&](const std::vector<std::string>& of) { return of[random() % of.size()]; };
    return {one(optimizers_), one(adapters_), one(quantizers), one(attention_), random() % 2 == 0, random() % 2 == 0};
  }
  static std::vector<std::string> parts(const Mix& m) {
    return {"o " + m.optimizer, "a " + m.adapter, "q " + m.quantizer, "t " + m.attention, m.fused ? "fused" : "plain", m.clip ? "clipped" : "free"};
  }
};
const Walk& walk() {
  static const Walk w;
  return w;
}

SessionOptions options(const Mix& mix) {
  SessionOptions o;
  o.calibration = CalibrationText(4, tiny::input().ids);  // for those that code weights with text in view
  for (auto& ids : o.calibration) ids.resize(14);
  o.sequence = 14, o.seed = 5, o.fused_backward = mix.fused, o.clip = mix.clip ? 1 : 0;
  return o;
}

std::map<std::string, std::vector<float>> weights(tiny::Run& run) {
  std::map<std::string, std::vector<float>> all;
  for (const Parameter* p : run.session->optimizer()->parameters()) all[p->name] = tiny::host_copy(*run.engine, p->value);
  return all;
}

class Mixing : public testing::TestWithParam<Mix> {};
TEST_P(Mixing, TrainsAsPlannedAndResumesBitForBit) {
  const Mix& mix = GetParam();
  const tiny::Folder folder;
  const std::string model = random_model(folder);
  const double lr = rate(mix.optimizer, !mix.adapter.empty());
  const auto steps = [&](tiny::Run& run, int64_t from, int64_t to) {
    double loss = 0;
    for (int64_t s = from; s <= to; ++s) loss = run.session->step(s, 12, {tiny::input()}, lr).loss;
    return loss;
  };
  tiny::Run whole(model, mix.request(), options(mix), kF32, catalog());
  const MemoryUse planned = plan_run(whole.runtime, whole.source, options(mix), {2, 14, false, 12}, kF32);
  const double first = steps(whole, 1, 1);
  const double last = steps(whole, 2, 12);
  ASSERT_TRUE(std::isfinite(last));
  if (drives(mix.optimizer))
    EXPECT_NE(last, first);
  else
    EXPECT_LT(last, first);
  // An adapter whose rank grows is planned at its largest.
  const double peak = static_cast<double>(whole.engine->memory().use().total_peak), plan = static_cast<double>(planned.total_peak);
  EXPECT_GE(plan, 0.97 * peak);
  EXPECT_LE(plan, (mix.adapter == "increlora" ? 1.45 : 1.03) * peak);

  tiny::Run before(model, mix.request(), options(mix), kF32, catalog()), after(model, mix.request(), options(mix), kF32, catalog());
  steps(before, 1, 7);
  const std::string output = folder / "output";
  std::filesystem::create_directories(output);
  save_checkpoint(output, 7, *before.session, {}, 1);
  std::vector<std::string> warnings;
  ASSERT_EQ(load_checkpoint(newest_checkpoint(output).value(), *after.session, {}, warnings), 7);
  EXPECT_EQ(steps(after, 8, 12), last);
  EXPECT_EQ(weights(after), weights(whole));
}

// A name of a test: letters, digits and underscores.
std::string test_name(const testing::TestParamInfo<Mix>& info) {
  std::string name;
  for (const char c : info.param.name()) name += std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return name + "_" + std::to_string(info.index);
}
INSTANTIATE_TEST_SUITE_P(Allowed, Mixing, testing::ValuesIn(walk().allowed), test_name);

class Refused : public testing::TestWithParam<Mix> {};
INSTANTIATE_TEST_SUITE_P(Forbidden, Refused, testing::ValuesIn(walk().refused), test_name);

// The tags that a mix has, put together by hand from the manifests: what the catalog works out in SQL.
std::set<std::string> tags_of(const Mix& mix) {
  std::set<std::string> tags = {"device:onednn", "dtype:f32"};
  bool scales = false;
  std::vector<std::string> ids = {mix.optimizer, mix.attention};
  if (!mix.adapter.empty()) ids.push_back(mix.adapter), tags.insert("kind:adapter");
  if (!mix.quantizer.empty()) ids.push_back(mix.quantizer), tags.insert("kind:quantizer");
  for (const std::string& id : ids) {
    const Manifest m = catalog().info(id);
    tags.insert(m.provides.begin(), m.provides.end());
    tags.insert("plugin:" + id);
    for (const char* tag : {"optimizer:scales", "quantizer:scale-gradients"}) scales |= std::count(m.provides.begin(), m.provides.end(), tag) > 0;
  }
  tags.insert(!mix.adapter.empty() ? "run:adapter-tuning" : scales ? "run:scale-tuning" : "run:full-tuning");
  if (mix.fused) tags.insert("run:fused-backward");
  if (mix.clip) tags.insert("run:clip-global-norm");
  return tags;
}

TEST_P(Refused, ForTheReasonThatAManifestGives) {
  const Mix& mix = GetParam();
  const std::set<std::string> tags = tags_of(mix);
  const std::vector<MixReason> reasons = refusals(mix);
  ASSERT_FALSE(reasons.empty());
  for (const MixReason& r : reasons) {
    EXPECT_EQ(r.sentence.rfind(r.plugin + ": ", 0), 0u) << r.sentence;
    if (r.plugin == "fused-backward" || r.plugin == "quantized-weights" || r.plugin == "edited-model") continue;  // the host's own, with relations of the same form
    const Manifest m = catalog().info(r.plugin);
    bool grounded = false;
    const auto said = [&](const Relation& relation) { return r.sentence == r.plugin + ": " + relation.reason; };
    for (const Relation& c : m.conflicts) grounded |= said(c) && (tags.count(c.tag) > 0 || c.tag.find('=') != std::string::npos);
    for (const Relation& c : m.requires_) grounded |= said(c) && tags.count(c.tag) == 0;
    EXPECT_TRUE(grounded) << r.sentence;
  }
  // The run refuses with the same words.
  try {
    const Runtime runtime(catalog(), mix.request());
    ADD_FAILURE() << mix.name() << " was not refused";
  } catch (const Error& e) {
    for (const MixReason& r : reasons) EXPECT_NE(std::string(e.what()).find(r.sentence), std::string::npos) << e.what();
  }
}

// What the relation allows the run takes, also where a choice of the plugin decides.
TEST(MixingWalk, ScalesInHalfPrecisionTrainNothing) {
  for (const auto& [bits, adapter, possible] : {std::tuple("16", "", false), {"16", "lora:r=2", true}, {"32", "", true}}) {
    const std::string spec = std::string("efficientqat:bits=4,group_size=32,train=false,scale_bits=") + bits;
    const MixRequest r = tiny::mix("adamw", *adapter ? std::vector<std::string>{adapter} : std::vector<std::string>{}, spec);
    std::vector<Spec> others{catalog().spec(TN_KIND_QUANTIZER, spec)};
    for (const std::string& a : r.adapters) others.push_back(catalog().spec(TN_KIND_ADAPTER, a));
    const MixAnswer answer = check_mix(catalog(), resolve_optimizers(catalog(), "adamw"), others, {});
    EXPECT_EQ(answer.possible, possible) << spec << " " << adapter;
    if (!possible) {
      EXPECT_NE(answer.reasons.at(0).sentence.find("scale_bits=32"), std::string::npos) << answer.reasons[0].sentence;
    }
    EXPECT_TRUE(check_mix(catalog(), {}, others, {}).possible);
    const tiny::Folder folder;
    if (possible)
      EXPECT_NO_THROW(tiny::Run(random_model(folder), r, {})) << spec;
    else
      EXPECT_THROW(Runtime(catalog(), r), Error) << spec;
  }
}

TEST(MixingWalk, EveryInstalledTechniqueIsInSomeMixThatRuns) {
  std::set<std::string> run;
  for (const Mix& m : walk().allowed) run.insert({m.optimizer, m.adapter, m.quantizer, m.attention});
  for (const char* kind : {"optimizer", "adapter", "quantizer", "attention"})
    for (const std::string& id : installed(kind, std::string_view(kind) == "quantizer" ? "quantizer:weight" : "")) EXPECT_TRUE(run.count(id)) << id;
  EXPECT_GE(walk().allowed.size(), 40u);
  EXPECT_GE(walk().refused.size(), 40u);
}

}  // namespace
}  // namespace tenon::trainer
