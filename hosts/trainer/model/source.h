// Where a model comes from: a Hugging Face folder, a GGUF file, or a preset with random weights.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/files/gguf.h"
#include "core/files/safetensors.h"
#include "hosts/trainer/model/model.h"

namespace tenon::trainer {

// A quantizer that decodes the blocks of a GGML type ("Q4_1"): an installed plugin that declares the layout gguf:TYPE.
using GgmlDecoder = std::function<Quantizer(std::string_view type)>;

class ModelSource {
 public:
  // `model` is a folder with config.json and safetensors, a .gguf file, or "preset:60m". vocab: of a preset.
  static ModelSource open(const std::string& model, int64_t preset_vocab);

  const std::string& path() const { return path_; }
  const ModelConfig& config() const { return config_; }
  bool is_preset() const { return !safetensors_ && !gguf_; }
  bool is_gguf() const { return gguf_ != nullptr; }
  const GgufFile* gguf() const { return gguf_.get(); }

  // Fills every parameter and quantized weight of the model. Presets draw from N(0, initializer_range²) keyed by seed and uid.
  // code false: quantized weights are left to be coded with text in view.
  void load(Engine& engine, Model& model, const GgmlDecoder& decoder, uint64_t seed, bool code = true) const;
  // The weight of a linear in f32, whatever the file holds, so that codes do not depend on --dtype.
  Tensor dense_weight(Engine& engine, const Linear& linear, const GgmlDecoder& decoder, uint64_t seed) const;
  // A parameter or weight by name, in to's dtype.
  void load_one(Engine& engine, const std::string& name, uint32_t uid, uint32_t role, const Tensor& to, const GgmlDecoder& decoder, uint64_t seed) const;

 private:
  void read(Engine& engine, const std::string& name, const Tensor& to, const GgmlDecoder& decoder) const;
  void read_safetensors(Engine& engine, const std::string& name, const Tensor& to) const;
  void read_gguf(Engine& engine, const std::string& name, const Tensor& to, const GgmlDecoder& decoder) const;
  void initialize(Engine& engine, const std::string& name, uint32_t uid, uint32_t role, const Tensor& to, uint64_t seed) const;

  std::string path_;
  ModelConfig config_;
  std::shared_ptr<SafetensorsReader> safetensors_;
  std::shared_ptr<GgufFile> gguf_;
};

}  // namespace tenon::trainer
