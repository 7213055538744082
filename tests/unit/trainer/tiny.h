// What the trainer's tests share: the committed tiny models, the build tree's plugins, host copies of tensors.
#pragma once

#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "hosts/trainer/run/features.h"
#include "hosts/trainer/run/plan.h"
#include "hosts/trainer/run/runtime.h"
#include "tests/reference/golden.h"

namespace tenon::trainer::tiny {

// A folder of its own below the system's temporary folder, removed at the end.
class Folder {
 public:
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "tenon-trainer-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return (std::filesystem::path(path_) / name).string(); }

 private:
  std::string path_;
};

// A Hugging Face folder of a golden model under one of its configurations.
inline std::string model_folder(const Folder& folder, const std::string& model, const std::string& config = "config") {
  namespace fs = std::filesystem;
  const std::string to = folder / (model + "-" + config);
  fs::create_directories(to);
  fs::copy_file(golden::path("models/" + model + "/model.safetensors"), to + "/model.safetensors", fs::copy_options::overwrite_existing);
  fs::copy_file(golden::path("models/" + model + "/" + config + ".json"), to + "/config.json", fs::copy_options::overwrite_existing);
  return to;
}

inline const Catalog& catalog() {
  static const Catalog c = open_catalog({std::string(TENON_BINARY_DIR) + "/lib/tenon"});
  return c;
}

// models/input: two sequences of 14 tokens, labels shifted here.
inline HostBatch input() {
  const golden::File f("models/input.safetensors");
  const std::vector<int32_t> ids = f.i32("ids"), labels = f.i32("labels");
  HostBatch b;
  b.sequences = 2, b.length = 14;
  b.ids = ids;
  for (int64_t r = 0; r < 28; ++r) {
    b.positions.push_back(static_cast<int32_t>(r % 14));
    b.labels.push_back(r % 14 < 13 ? labels[r + 1] : -1);
  }
  return b;
}

inline double predicted(const HostBatch& b) {
  double n = 0;
  for (int32_t l : b.labels) n += l >= 0;
  return n;
}

inline std::vector<float> host_copy(Engine& engine, const Tensor& t) {
  std::vector<float> v(t.count());
  if (t.dtype() == kF32) {
    engine.download(t, v.data());
  } else {
    const Tensor wide = engine.empty(Category::kWorkspace, kF32, t.shape(), t.ndim());
    engine.axpby(1, t, 0, wide);
    engine.download(wide, v.data());
  }
  return v;
}

// A session ready to train, with everything that it hangs on.
struct Run {
  Runtime runtime;
  ModelSource source;
  std::unique_ptr<Engine> engine, host;
  std::unique_ptr<TechniqueSet> set;
  std::unique_ptr<Session> session;

  Run(const std::string& model, const MixRequest& request, SessionOptions options, tn_dtype compute = kF32,
      const Catalog& plugins = catalog())
      : runtime(plugins, request), source(ModelSource::open(model, 320)) {
    options.sequence = std::max<int64_t>(options.sequence, 14), options.storage = compute;
    engine = runtime.engine(compute, 0, false);
    engine->memory().fill_fresh(0xff, engine->stream());  // what is read before it is written is NaN
    host = runtime.host_engine(false);
    if (host) host->memory().fill_fresh(0xff, host->stream());
    set = runtime.instantiate();
    session = std::make_unique<Session>(*engine, source, set->techniques, options, host.get());
  }

  // Loss of one batch and every gradient, by parameter name.
  double gradients(const HostBatch& batch, const MemoryOptions& memory, std::map<std::string, std::vector<float>>& out, uint64_t seed = 7) {
    const double n = predicted(batch);
    LinearCall call;
    call.step = 1, call.seed = seed;
    const double nats = session->model().train(batch, call, memory, 1 / n, true, [](Parameter&) {});
    for (const Parameter* p : session->optimizer()->parameters()) out[p->name] = host_copy(*engine, p->gradient);
    session->optimizer()->drop_gradients();
    return nats / n;
  }
};

// Every trained parameter of a run, one behind the other.
inline std::vector<float> all_weights(Run& run) {
  std::vector<float> all;
  for (const Parameter* p : run.session->optimizer()->parameters()) {
    const std::vector<float> v = host_copy(*run.engine, p->value);
    all.insert(all.end(), v.begin(), v.end());
  }
  return all;
}
// |a - b| / |b|.
inline double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double d = 0, n = 0;
  for (size_t i = 0; i < a.size(); ++i) d += (a[i] - b[i]) * (a[i] - b[i]), n += b[i] * b[i];
  return std::sqrt(d / n);
}

inline MixRequest mix(const std::string& optimizer = "adamw", const std::vector<std::string>& adapters = {}, const std::string& quantizer = "") {
  MixRequest r;
  r.optimizer = optimizer, r.adapters = adapters, r.quantizer = quantizer, r.device = "onednn";
  return r;
}

}  // namespace tenon::trainer::tiny
