#include <sys/stat.h>

#include "core/files/gguf.h"
#include "core/files/safetensors.h"
#include "hosts/bench/bench.h"
#include "hosts/trainer/model/source.h"
#include "hosts/trainer/text/text_model.h"

namespace tenon::bench {
namespace {

using trainer::Tensor;

// Copies every tensor of a file, as it is stored, into memory of the device.
double read_all(trainer::Engine& engine, const std::string& model) {
  double total = 0;
  std::vector<Tensor> kept;
  const auto take = [&](ByteSpan bytes) {
    kept.push_back(engine.empty(Category::kWeights, trainer::kU8, {static_cast<int64_t>(bytes.size())}));
    engine.upload(bytes.data(), kept.back());
    total += static_cast<double>(bytes.size());
  };
  if (struct stat s{}; ::stat(model.c_str(), &s) == 0 && S_ISDIR(s.st_mode)) {
    const SafetensorsReader reader = SafetensorsReader::open(model);
    for (const TensorEntry& t : reader.tensors()) take(reader.data(t));
  } else {
    const GgufFile file = GgufFile::open(model);
    for (const GgufTensor& t : file.tensors()) take(file.data(t));
  }
  engine.synchronize();
  return total;
}

}  // namespace

Figures open_model(const Catalog& catalog, const Setting& setting) {
  trainer::MixRequest request;
  request.device = setting.device;
  const trainer::Runtime runtime(catalog, request);
  const auto engine = runtime.engine(trainer::kF32, 0, false);
  const double bytes = read_all(*engine, setting.model);  // also brings the file into the page cache
  Figures out = measure({{"open_seconds", 0, 0, [&] { (void)trainer::ModelSource::open(setting.model, 0); }},
                         {"open_with_tokenizer_seconds", 0, 0,
                          [&] {
                            (void)trainer::ModelSource::open(setting.model, 0);
                            (void)trainer::load_text_model(setting.model);
                          }},
                         {"read_seconds", 0, 0, [&] { (void)read_all(*engine, setting.model); }}},
                        setting.repeat);
  out.push_back({"read_gigabytes_per_second", bytes / 1e9 / out[2].value});
  out.push_back({"weights_bytes", bytes});
  return out;
}

Figures tokenize(const Catalog&, const Setting& setting) {
  const trainer::Tokenizer tokenizer = trainer::load_text_model(setting.model).tokenizer;
  size_t tokens = 0;
  Figures out = measure({{"text_megabytes_per_second", static_cast<double>(setting.text.size()), 1e6,
                          [&] { tokens = tokenizer.encode(setting.text).size(); }}},
                        setting.repeat);
  out.push_back({"tokens", static_cast<double>(tokens)});
  out.push_back({"text_bytes", static_cast<double>(setting.text.size())});
  return out;
}

}  // namespace tenon::bench
