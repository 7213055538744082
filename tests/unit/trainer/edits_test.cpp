// Model edits (org.tenon.edits/1): what the host makes of a plan, whoever it comes from, and the edited model in everything that a model does.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "core/error.h"
#include "hosts/trainer/run/calibration.h"
#include "hosts/trainer/run/checkpoint.h"
#include "hosts/trainer/run/edits.h"
#include "tests/unit/trainer/tiny.h"

namespace tenon::trainer {
namespace {

// A plugin that is a plan and matrices, in this program.
struct Fake {
  std::vector<tn_edit_matrix> matrices;
  std::vector<tn_edit> edits;
  std::map<uint32_t, std::vector<float>> values;  // by id, row-major

  uint32_t matrix(int64_t rows, int64_t columns, std::vector<float> v) {
    const auto id = static_cast<uint32_t>(matrices.size());
    matrices.push_back({sizeof(tn_edit_matrix), id, TN_EDIT_STATISTIC_NONE, -1, rows, columns});
    values[id] = std::move(v);
    return id;
  }
  void edit(uint32_t kind, uint32_t role = 0, int32_t place = -1, uint32_t matrix = 0, int64_t count = 0) {
    edits.push_back({sizeof(tn_edit), kind, role, place, matrix, 0, count});
  }
  static Fake& of(tn_quantizer* self) { return *reinterpret_cast<Fake*>(self); }
  static int32_t text(tn_quantizer*, tn_edit_text*) { return TN_OK; }
  static int32_t plan(tn_quantizer* self, const tn_edit_model*, const tn_edit_sink* sink) {
    for (const tn_edit_matrix& m : of(self).matrices) sink->matrix(sink->self, &m);
    for (const tn_edit& e : of(self).edits) sink->edit(sink->self, &e);
    return TN_OK;
  }
  static int32_t estimate(tn_quantizer*, const tn_device_api*, tn_device*, const tn_edit_matrix*, tn_estimate*) { return TN_OK; }
  static int32_t make(tn_quantizer* self, const tn_edit_ops*, const tn_edit_matrix* m, tn_tensor* out) {
    const std::vector<float>& v = of(self).values.at(m->id);
    std::copy(v.begin(), v.end(), static_cast<float*>(out->data));
    return TN_OK;
  }
  static constexpr tn_edits kTable = {sizeof(tn_edits), 0, text, plan, estimate, make};
  Editor editor() { return {&kTable, reinterpret_cast<tn_quantizer*>(this), "fake", {}}; }
};

SessionOptions still() {
  SessionOptions o;
  o.train = false, o.sequence = 14;
  return o;
}

std::vector<double> losses(Model& model) {
  std::vector<double> all;
  model.evaluate(tiny::input(), &all);
  return all;
}

double worst(const std::vector<double>& a, const std::vector<double>& b) {
  double w = 0;
  for (size_t i = 0; i < a.size(); ++i) w = std::max(w, std::fabs(a[i] - b[i]));
  return w;
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum);
}

// A model edited by the fake, as it stands before anything else is done to it.
struct Edited {
  tiny::Run run;
  Edited(const std::string& model, Fake& fake, const std::function<void(Model&)>& before = {}) : run(model, tiny::mix(""), still()) {
    if (before) before(run.session->model());
    const Editor editor = fake.editor();
    Techniques t = run.session->techniques();
    t.editor = &editor;
    edit_model(*run.engine, run.session->model(), t, still());
  }
  std::vector<double> losses() { return trainer::losses(run.session->model()); }
};

// Householder's reflection by a vector of no special direction: an orthogonal matrix.
std::vector<float> reflection(int64_t n) {
  std::vector<double> v(static_cast<size_t>(n));
  double length = 0;
  for (int64_t i = 0; i < n; ++i) v[i] = std::sin(1.7 * static_cast<double>(i) + 0.3), length += v[i] * v[i];
  std::vector<float> q(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) q[i * n + j] = static_cast<float>((i == j) - 2 * v[i] * v[j] / length);
  return q;
}

Fake rotation(const ModelConfig& c) {
  Fake f;
  if (c.tied) f.edit(TN_EDIT_UNTIE);
  for (int32_t b = 0; b <= 2 * c.layers; ++b) f.edit(TN_EDIT_FOLD_NORM, 0, b);
  const uint32_t q = f.matrix(c.hidden, c.hidden, reflection(c.hidden));
  f.edit(TN_EDIT_OUTPUT, TN_ROLE_EMBEDDING, -1, q);
  for (int32_t l = 0; l < c.layers; ++l) {
    for (uint32_t role : {TN_ROLE_Q, TN_ROLE_K, TN_ROLE_V, TN_ROLE_GATE, TN_ROLE_UP}) f.edit(TN_EDIT_INPUT, role, l, q);
    for (uint32_t role : {TN_ROLE_O, TN_ROLE_DOWN}) f.edit(TN_EDIT_OUTPUT, role, l, q);
  }
  f.edit(TN_EDIT_INPUT, TN_ROLE_HEAD, -1, q);
  return f;
}

TEST(Edits, OneRotationOfTheWholeStreamNeedsNoMapAndChangesNothing) {
  const tiny::Folder folder;
  for (const char* name : {"llama", "qwen2", "qwen3"}) {
    const std::string model = tiny::model_folder(folder, name);
    tiny::Run plain(model, tiny::mix(""), still());
    Fake f = rotation(plain.source.config());
    Edited edited(model, f);
    EXPECT_LT(worst(losses(plain.session->model()), edited.losses()), 1e-4) << name;
    const ModelConfig& c = edited.run.session->model().config();
    for (const bool map : c.edited->maps) EXPECT_FALSE(map);
    EXPECT_FALSE(c.tied);
  }
}

// Columns of the identity.
std::vector<float> selection(int64_t rows, const std::vector<int64_t>& kept) {
  std::vector<float> s(static_cast<size_t>(rows) * kept.size());
  for (size_t j = 0; j < kept.size(); ++j) s[static_cast<size_t>(kept[j]) * kept.size() + j] = 1;
  return s;
}

TEST(Edits, HeadsAndChannelsWhoseOutputIsNotReadCanGo) {
  const tiny::Folder folder;
  for (const char* name : {"llama", "qwen2"}) {
    const std::string model = tiny::model_folder(folder, name);
    const ModelConfig c = ModelSource::open(model, 0).config();
    const int64_t d = c.head_dim, group = c.heads / c.kv_heads;
    std::vector<int64_t> q, kv, wide;
    for (int64_t i = 0; i < group * d; ++i) q.push_back(group * d + i);  // the second group of heads stays
    for (int64_t i = 0; i < d; ++i) kv.push_back(d + i);
    for (int64_t i = 0; i < c.intermediate; i += 2) wide.push_back(i);
    Fake f;
    const auto n = [](const auto& v) { return static_cast<int64_t>(v.size()); };
    const uint32_t sq = f.matrix(c.q_width(), n(q), selection(c.q_width(), q)), skv = f.matrix(c.kv_width(), n(kv), selection(c.kv_width(), kv)),
                   sw = f.matrix(c.intermediate, n(wide), selection(c.intermediate, wide));
    f.edit(TN_EDIT_OUTPUT, TN_ROLE_Q, 1, sq), f.edit(TN_EDIT_OUTPUT, TN_ROLE_K, 1, skv), f.edit(TN_EDIT_OUTPUT, TN_ROLE_V, 1, skv);
    f.edit(TN_EDIT_INPUT, TN_ROLE_O, 1, sq);
    for (uint32_t role : {TN_ROLE_GATE, TN_ROLE_UP}) f.edit(TN_EDIT_OUTPUT, role, 0, sw);
    f.edit(TN_EDIT_INPUT, TN_ROLE_DOWN, 0, sw);
    const auto unread = [&](Model& m) {  // what goes is not read in this model
      const auto zero = [&](Linear* l, const std::function<bool(int64_t)>& goes) {
        std::vector<float> w(static_cast<size_t>(l->m * l->n));
        std::memcpy(w.data(), l->weight->value.data(), w.size() * 4);
        for (int64_t i = 0; i < l->m; ++i)
          for (int64_t j = 0; j < l->n; ++j)
            if (goes(j)) w[i * l->n + j] = 0;
        std::memcpy(l->weight->value.data(), w.data(), w.size() * 4);
      };
      zero(m.linears()[7 + TransformerBlock::kO], [&](int64_t j) { return j < group * d; });
      zero(m.linears()[TransformerBlock::kDown], [](int64_t j) { return j % 2 == 1; });
    };
    tiny::Run plain(model, tiny::mix(""), still());
    unread(plain.session->model());
    Edited edited(model, f, unread);
    EXPECT_LT(worst(losses(plain.session->model()), edited.losses()), 1e-5) << name;
    const EditedShape& shape = *edited.run.session->model().config().edited;
    EXPECT_EQ(shape.heads, (std::vector<int64_t>{c.heads, group}));
    EXPECT_EQ(shape.kv_heads, (std::vector<int64_t>{c.kv_heads, 1}));
    EXPECT_EQ(shape.intermediate, (std::vector<int64_t>{c.intermediate / 2, c.intermediate}));
    // And comes back from its folder, decoding included.
    const std::string to = folder / (std::string(name) + "-pruned");
    write_edited(to, *edited.run.session, edited.run.source, kF32);
    tiny::Run again(to, tiny::mix(""), still());
    EXPECT_EQ(losses(again.session->model()), edited.losses());
    Model& m = again.session->model();
    m.start_cache(8);
    EXPECT_EQ(m.feed({1, 5, 9, 2}).size(), static_cast<size_t>(c.vocab));
  }
}

TEST(Edits, PlansThatCannotBeCarriedOutAreRefusedByName) {
  const tiny::Folder folder;
  const std::string llama = tiny::model_folder(folder, "llama"), tied = tiny::model_folder(folder, "qwen3");
  const ModelConfig c = ModelSource::open(llama, 0).config();
  struct Case {
    const char* words;
    std::string model;
    std::function<void(Fake&)> plan;
  };
  const auto square = [&](Fake& f) { return f.matrix(c.hidden, c.hidden, reflection(c.hidden)); };
  const Case cases[] = {
      {"kind 77", llama, [](Fake& f) { f.edit(77); }},
      {"gain has not been folded", llama, [&](Fake& f) { f.edit(TN_EDIT_INPUT, TN_ROLE_Q, 0, square(f)); }},
      {"names a weight", llama, [&](Fake& f) { f.edit(TN_EDIT_INPUT, TN_ROLE_Q, 9, square(f)); }},
      {"names a weight", llama, [&](Fake& f) { f.edit(TN_EDIT_OUTPUT, TN_ROLE_HEAD, -1, square(f)); }},
      {"was not declared", llama, [](Fake& f) { f.edit(TN_EDIT_OUTPUT, TN_ROLE_O, 0, 3); }},
      {"multiplies 32 channels by a matrix of 8 rows", llama, [](Fake& f) { f.edit(TN_EDIT_OUTPUT, TN_ROLE_O, 0, f.matrix(8, 8, std::vector<float>(64))); }},
      {"the residual map at boundary 1", llama, [](Fake& f) { f.edit(TN_EDIT_OUTPUT, TN_ROLE_O, 0, f.matrix(32, 16, std::vector<float>(512))); }},
      {"heads that no attention has", llama, [](Fake& f) { f.edit(TN_EDIT_OUTPUT, TN_ROLE_Q, 0, f.matrix(32, 12, std::vector<float>(384))); }},
      {"different widths", llama, [](Fake& f) { f.edit(TN_EDIT_OUTPUT, TN_ROLE_GATE, 0, f.matrix(48, 12, std::vector<float>(576))); }},
      {"must be untied first", tied, [&](Fake& f) { f.edit(TN_EDIT_OUTPUT, TN_ROLE_EMBEDDING, -1, square(f)); }},
      {"must be untied first", tied, [](Fake& f) { f.edit(TN_EDIT_FOLD_NORM, 0, 4); }},
      {"boundary 9 of 5", llama, [](Fake& f) { f.edit(TN_EDIT_FOLD_NORM, 0, 9); }},
      {"counts 0 elements", llama, [](Fake& f) { f.edit(TN_EDIT_NORM_COUNT, 0, 1, 0, 0); }},
      {"have been counted", llama,
       [&](Fake& f) { f.edit(TN_EDIT_FOLD_NORM, 0, 1), f.edit(TN_EDIT_NORM_COUNT, 0, 1, 0, 32), f.edit(TN_EDIT_INPUT, TN_ROLE_UP, 0, square(f)); }},
      {"the statistic 9", llama, [&](Fake& f) { square(f), f.matrices[0].statistic = 9, f.matrices[0].boundary = 1, f.edit(TN_EDIT_OUTPUT, TN_ROLE_O, 0, 0); }},
      {"has passed already", llama,
       [&](Fake& f) {
         square(f), f.matrices[0].statistic = TN_EDIT_STATISTIC_GRAM, f.matrices[0].boundary = 3;
         f.edit(TN_EDIT_OUTPUT, TN_ROLE_O, 1, 0), f.edit(TN_EDIT_OUTPUT, TN_ROLE_O, 0, 0);
       }},
      {"a boundary that the text has passed", llama,
       [&](Fake& f) {
         square(f), square(f);
         for (int i : {0, 1}) f.matrices[i].statistic = TN_EDIT_STATISTIC_GRAM, f.matrices[i].boundary = 3 - 2 * i;
         f.edit(TN_EDIT_OUTPUT, TN_ROLE_DOWN, 1, 0), f.edit(TN_EDIT_OUTPUT, TN_ROLE_DOWN, 1, 1);
       }},
      {"multiplied by different matrices", llama,
       [&](Fake& f) {
         square(f), square(f);
         for (int i : {0, 1}) f.matrices[i].statistic = TN_EDIT_STATISTIC_GRAM, f.matrices[i].boundary = 1 + i;
         f.edit(TN_EDIT_OUTPUT, TN_ROLE_O, 0, 0), f.edit(TN_EDIT_OUTPUT, TN_ROLE_DOWN, 0, 1);
       }},
  };
  for (const Case& k : cases) {
    Fake f;
    k.plan(f);
    try {
      plan_edits(ModelSource::open(k.model, 0).config(), f.editor());
      ADD_FAILURE() << k.words;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(k.words), std::string::npos) << e.what();
    }
  }
}

TEST(Edits, ADamagedShapeInConfigJsonIsRefused) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  Fake f = rotation(ModelSource::open(model, 0).config());
  Edited edited(model, f);
  write_edited(folder / "edited", *edited.run.session, edited.run.source, kF32);
  const std::string config = folder / "edited" + std::string("/config.json");
  std::ifstream in(config);
  const nlohmann::json good = nlohmann::json::parse(in);
  const auto refused = [&](const char* words, const std::function<void(nlohmann::json&)>& damage) {
    nlohmann::json j = good;
    damage(j[kEditsKey]);
    try {
      parse_config(j, "config.json");
      ADD_FAILURE() << words;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(words), std::string::npos) << e.what();
    }
  };
  EXPECT_EQ(parse_config(good, "config.json").edited->widths, std::vector<int64_t>(5, 32));
  refused("widths must be a list of 5", [](auto& e) { e["widths"].erase(0); });
  refused("cannot stand in", [](auto& e) { e["widths"][2] = -1; });
  refused("cannot stand in", [](auto& e) { e["norm_eps"][2] = "x"; });
  refused("without a residual map", [](auto& e) { e["widths"][2] = 24; });
  refused("no multiple of its 3", [](auto& e) { e["kv_heads"][1] = 3; });
}

// slicegpt, the plugin, on the tiny models.
CalibrationText text(size_t sequences, size_t length) {
  CalibrationText out(sequences);
  uint32_t state = 1;
  for (auto& s : out)
    for (size_t i = 0; i < length; ++i) state = state * 1664525 + 1013904223, s.push_back(static_cast<int32_t>((state >> 24) % 12 * 7 % 96));
  return out;
}

SessionOptions editing() {
  SessionOptions o = still();
  o.calibration = text(16, 32), o.sequence = 32;
  return o;
}

std::string sliced(const tiny::Folder& folder, const std::string& model, const std::string& spec) {
  const std::string to = folder / ("sliced-" + std::to_string(std::hash<std::string>()(model + spec)));
  if (std::filesystem::exists(to)) return to;
  tiny::Run run(model, tiny::mix("", {}, spec), editing());
  write_edited(to, *run.session, run.source, kF32);
  return to;
}

TEST(Sliced, WithNothingDeletedTheModelIsTheSame) {
  const tiny::Folder folder;
  for (const char* name : {"llama", "qwen2", "qwen3", "mistral"})
    for (const char* spec : {"slicegpt:sparsity=0", "slicegpt:sparsity=0,final_orientation=random", "slicegpt:sparsity=0,basis=random"}) {
      const std::string model = tiny::model_folder(folder, name);
      tiny::Run plain(model, tiny::mix(""), still()), edited(model, tiny::mix("", {}, spec), editing());
      EXPECT_LT(worst(losses(plain.session->model()), losses(edited.session->model())), 1e-4) << name << ' ' << spec;
    }
}

TEST(Sliced, PrincipalDirectionsAreBetterThanRandomOnes) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  tiny::Run plain(model, tiny::mix(""), still());
  const std::vector<double> dense = losses(plain.session->model());
  std::map<std::string, double> from;
  for (const char* spec : {"slicegpt:sparsity=0.25", "slicegpt:sparsity=0.5", "slicegpt:sparsity=0.25,basis=random", "slicegpt:sparsity=0.25,basis=pca_normalized",
                           "slicegpt:sparsity=0.25,final_orientation=random"}) {
    tiny::Run run(model, tiny::mix("", {}, spec), editing());
    from[spec] = distance(dense, losses(run.session->model()));
  }
  const double quarter = from["slicegpt:sparsity=0.25"];
  EXPECT_LT(quarter, 0.8 * from["slicegpt:sparsity=0.25,basis=random"]);
  EXPECT_LT(quarter, from["slicegpt:sparsity=0.5"]);
  EXPECT_LT(from["slicegpt:sparsity=0.25,basis=pca_normalized"], 0.8 * from["slicegpt:sparsity=0.25,basis=random"]);
  EXPECT_NEAR(quarter, from["slicegpt:sparsity=0.25,final_orientation=random"], 1e-3);  // other axes of the same space
}

TEST(Sliced, AFolderHoldsTheModelBitForBit) {
  const tiny::Folder folder;
  for (const char* name : {"llama", "qwen3"}) {
    const std::string model = tiny::model_folder(folder, name);
    tiny::Run run(model, tiny::mix("", {}, "slicegpt:sparsity=0.25"), editing());
    write_edited(folder / (std::string("out-") + name), *run.session, run.source, kF32);
    tiny::Run again(folder / (std::string("out-") + name), tiny::mix(""), still());
    EXPECT_EQ(losses(run.session->model()), losses(again.session->model())) << name;
    std::map<std::string, std::vector<float>> before, after;
    for (Parameter& p : run.session->model().parameters()) before[p.name] = tiny::host_copy(*run.engine, p.value);
    for (Parameter& p : again.session->model().parameters()) after[p.name] = tiny::host_copy(*again.engine, p.value);
    EXPECT_EQ(before, after) << name;
    const ModelConfig& c = again.source.config();
    EXPECT_EQ(c.edited->widths, (std::vector<int64_t>{24, 24, 24, 24, 32}));
    EXPECT_EQ(c.edited->maps, std::vector<bool>(4, true));
    EXPECT_NEAR(c.edited->norm_eps[1], c.norm_eps * 32 / 24, 1e-18);
    int64_t parameters = 0;
    for (Parameter& p : again.session->model().parameters()) parameters += p.value.count();
    EXPECT_EQ(parameters, c.parameters());
  }
}

TEST(Sliced, TheWholeOrInPartsDecodesAlike) {
  const tiny::Folder folder;
  tiny::Run run(sliced(folder, tiny::model_folder(folder, "llama"), "slicegpt:sparsity=0.25"), tiny::mix(""), still());
  Model& m = run.session->model();
  const std::vector<int32_t> ids = {1, 7, 3, 22, 14};
  m.start_cache(8);
  const std::vector<float> whole = m.feed(ids);
  m.start_cache(8);
  std::vector<float> parts;
  for (int32_t id : ids) parts = m.feed({id});
  for (size_t i = 0; i < whole.size(); ++i) ASSERT_NEAR(whole[i], parts[i], 1e-4);
  HostBatch b = shape_batch(1, 5, 96);
  b.ids = ids, b.labels = {-1, -1, -1, -1, 40};
  double sum = 0;
  for (float v : whole) sum += std::exp(double{v} - whole[40]);
  EXPECT_NEAR(m.evaluate(b), std::log(sum), 1e-4);
}

TEST(Sliced, GradientsAreThoseOfFiniteDifferences) {
  const tiny::Folder folder;
  tiny::Run run(sliced(folder, tiny::model_folder(folder, "llama"), "slicegpt:sparsity=0.25"), tiny::mix(), {});
  std::map<std::string, std::vector<float>> gradients;
  run.gradients(tiny::input(), {}, gradients);
  ASSERT_TRUE(gradients.contains("model.layers.1.mlp.residual_map.weight"));
  const double n = tiny::predicted(tiny::input());
  size_t checked = 0;
  for (Parameter& p : run.session->model().parameters()) {
    const std::vector<float>& g = gradients.at(p.name);
    double length = 0;
    for (float v : g) length += double{v} * v;
    length = std::sqrt(length);
    if (length < 1e-3) continue;
    const std::vector<float> at = tiny::host_copy(*run.engine, p.value);
    const auto loss = [&](double step) {
      std::vector<float> moved = at;
      for (size_t i = 0; i < moved.size(); ++i) moved[i] += static_cast<float>(step * g[i] / length);
      run.engine->upload(moved.data(), p.value);
      return run.session->model().evaluate(tiny::input()) / n;
    };
    const double h = 0.02, slope = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h);
    run.engine->upload(at.data(), p.value);
    EXPECT_NEAR(slope, length, 0.01 * length + 2e-5) << p.name;
    ++checked;
  }
  EXPECT_GE(checked, 20u);
}

TEST(Sliced, MemoryFeaturesChangeNoGradient) {
  const tiny::Folder folder;
  tiny::Run run(sliced(folder, tiny::model_folder(folder, "qwen3"), "slicegpt:sparsity=0.25"), tiny::mix(), {});
  std::map<std::string, std::vector<float>> plain;
  run.gradients(tiny::input(), {}, plain);
  std::map<std::string, MemoryOptions> all;
  all["block"].checkpointing = Checkpointing::kBlock, all["middle"].checkpointing = Checkpointing::kMiddle;
  all["flash"].checkpointing = Checkpointing::kFlashCut, all["tiled"].tiled_mlp = true, all["every"].every = 2;
  all["stream"].stream_rows = 5, all["chunks"].chunk_rows = 7;
  for (const auto& [name, memory] : all) {
    std::map<std::string, std::vector<float>> got;
    run.gradients(tiny::input(), memory, got);
    for (const auto& [p, g] : plain) {
      double error = 0, size = 0;
      for (size_t i = 0; i < g.size(); ++i) error += std::pow(g[i] - got.at(p)[i], 2), size += double{g[i]} * g[i];
      EXPECT_LE(std::sqrt(error), 1e-4 * std::sqrt(size) + 1e-7) << name << ' ' << p;
    }
  }
}

TEST(Sliced, TrainsWithLoraAsPlannedAndResumesBitForBit) {
  const tiny::Folder folder;
  const std::string model = sliced(folder, tiny::model_folder(folder, "llama"), "slicegpt:sparsity=0.25");
  const MixRequest mix = tiny::mix("adamw", {"lora:r=4"});
  SessionOptions options;
  options.sequence = 14;
  const auto steps = [&](tiny::Run& run, int64_t from, int64_t to) {
    double loss = 0;
    for (int64_t s = from; s <= to; ++s) loss = run.session->step(s, 8, {tiny::input()}, 1e-2).loss;
    return loss;
  };
  tiny::Run whole(model, mix, options);
  const double first = steps(whole, 1, 1), last = steps(whole, 2, 8);
  EXPECT_LT(last, first);
  SessionOptions planned = options;
  planned.storage = kF32;
  const double plan = static_cast<double>(plan_run(whole.runtime, whole.source, planned, {2, 14, false, 8}, kF32).total_peak);
  EXPECT_NEAR(plan, static_cast<double>(whole.engine->memory().use().total_peak), 0.03 * plan);
  tiny::Run before(model, mix, options), after(model, mix, options);
  steps(before, 1, 5);
  const std::string output = folder / "run";
  std::filesystem::create_directories(output);
  save_checkpoint(output, 5, *before.session, {}, 1);
  std::vector<std::string> warnings;
  ASSERT_EQ(load_checkpoint(newest_checkpoint(output).value(), *after.session, {}, warnings), 5);
  EXPECT_EQ(steps(after, 6, 8), last);
}

TEST(Sliced, ThePlanOfEditingHolds) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  const MixRequest mix = tiny::mix("", {}, "slicegpt:sparsity=0.25,samples=16,sample_length=32");
  tiny::Run run(model, mix, editing());
  SessionOptions dry = still();
  dry.sequence = 32;
  const auto engine = run.runtime.engine(kF32, 0, true);
  const auto set = run.runtime.instantiate();
  const Session planned(*engine, run.source, set->techniques, dry);
  EXPECT_EQ(engine->memory().use().total_peak, run.engine->memory().use().total_peak);
}

TEST(Sliced, CodecsAndOtherAdaptersMeetItLikeAnyModel) {
  const tiny::Folder folder;
  const std::string model = sliced(folder, tiny::model_folder(folder, "llama"), "slicegpt:sparsity=0.25");
  tiny::Run plain(model, tiny::mix(""), still());
  const std::vector<double> dense = losses(plain.session->model());
  for (const char* codec : {"gptq:bits=8,group_size=-1", "nf4:blocksize=32", "llm-int8"}) {
    SessionOptions o = editing();
    tiny::Run run(model, tiny::mix("", {}, codec), o);
    EXPECT_LT(distance(dense, losses(run.session->model())), 0.2 * distance(dense, std::vector<double>(dense.size()))) << codec;
  }
  for (const char* adapter : {"compacter:reduction_factor=2", "dora"}) {
    SessionOptions o;
    tiny::Run run(model, tiny::mix("adamw", {adapter}), o);
    const double first = run.session->step(1, 6, {tiny::input()}, 1e-2).loss;
    double last = first;
    for (int64_t s = 2; s <= 6; ++s) last = run.session->step(s, 6, {tiny::input()}, 1e-2).loss;
    EXPECT_LT(last, first) << adapter;
  }
}

TEST(Sliced, WhatCannotBeIsRefusedInWords) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama"), edited = sliced(folder, model, "slicegpt:sparsity=0.25");
  const auto refused = [&](const char* words, const std::string& from, const MixRequest& mix, SessionOptions options, tn_dtype dtype = kF32) {
    try {
      tiny::Run run(from, mix, options, dtype);
      ADD_FAILURE() << words;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(words), std::string::npos) << e.what();
    }
  };
  refused("tenon quantize", model, tiny::mix("adamw", {"lora"}, "slicegpt"), {});
  refused("tenon quantize", model, tiny::mix("adamw", {}, "slicegpt"), {});
  refused("--calibration", model, tiny::mix("", {}, "slicegpt"), still());
  refused("edits weights in f32", model, tiny::mix("", {}, "slicegpt"), editing(), kBF16);
  refused("has been edited already", edited, tiny::mix("", {}, "slicegpt"), editing());
  refused("of one width", edited, tiny::mix("adamw", {"meft"}), {});
  MixRequest mixer = tiny::mix("");
  mixer.attention = "deltanet";
  refused("choose another --attention", edited, mixer, still());
}

}  // namespace
}  // namespace tenon::trainer
