// Where a model comes from: a Hugging Face folder, a GGUF file, or a preset with random weights.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/files/gguf.h"
#include "core/files/safetensors.h"
#include "hosts/trainer/model/model.h"

namespace tenon::trainer {

// The codec with which a folder stores its weights.
struct StoredCodec {
  Quantizer quantizer;                // api null: the weights are plain
  const tn_layout* layout = nullptr;  // of files in a layout other than kOwnLayout
  bool is_mix = false;                // the run's own quantizer is such a one, so that codes are taken over as they are
};

// What reads weights that files hold in codes.
struct WeightDecoder {
  // Decodes the blocks of a GGML type ("Q4_1"): an installed plugin that declares the layout gguf:TYPE.
  std::function<Quantizer(std::string_view type)> ggml;
  StoredCodec stored;
  // Whether a quantizer of the run holds a weight as the very blocks of a GGML type, so that a file's are taken over.
  std::function<bool(std::string_view type, const Quantizer& quantizer)> stores;
};

// quant_method of folders that hold a codec's components as they are, each behind the weight's name.
inline constexpr std::string_view kOwnLayout = "tenon";
// Key of the order of segments in such a folder.
inline constexpr const char* kSegmentOrderKey = "tenon.segment_order";

// The key of a tensor that a codec names by this suffix to a weight's name (org.tenon.layout/1).
std::string stored_key(const std::string& weight, std::string_view suffix);

class ModelSource {
 public:
  // `model` is a folder with config.json and safetensors, a .gguf file, or "preset:60m". vocab: of a preset.
  static ModelSource open(const std::string& model, int64_t preset_vocab);

  const std::string& path() const { return path_; }
  const ModelConfig& config() const { return config_; }
  bool is_preset() const { return !safetensors_ && !gguf_; }
  bool is_gguf() const { return gguf_ != nullptr; }
  const GgufFile* gguf() const { return gguf_.get(); }

  // Fills `to` with one tensor, by its Hugging Face name.
  void read(Engine& engine, const std::string& name, const Tensor& to, const WeightDecoder& decoder) const;

  // Fills every parameter and quantized weight of the model. Presets draw from N(0, initializer_range²) keyed by seed and uid.
  // code false: quantized weights are left to be coded with text in view.
  void load(Engine& engine, Model& model, const WeightDecoder& decoder, uint64_t seed, bool code = true) const;
  // Fills the parameters of the model's mixers: from the files where these hold them, else as the mixers convert them.
  void start_mixers(Engine& engine, Model& model, const WeightDecoder& decoder, uint64_t seed) const;
  // Whether the file holds a weight without codes although others of it are in codes, as tools leave modules out.
  bool holds_plain(const std::string& weight) const { return !config_.stored_layout.empty() && holds(weight) && !is_stored_quantized(weight); }
  // In which order the segments of weights that come in some are worth loading, as the file says; empty: it does not.
  std::vector<int32_t> segment_order() const;
  // The weight of a linear in f32, whatever the file holds, so that codes do not depend on --dtype.
  Tensor dense_weight(Engine& engine, const Linear& linear, const WeightDecoder& decoder, uint64_t seed) const;
  // A parameter or weight by name, in to's dtype.
  void load_one(Engine& engine, const std::string& name, uint32_t uid, uint32_t role, const Tensor& to, const WeightDecoder& decoder, uint64_t seed) const;

 private:
  bool holds(const std::string& name) const;
  bool is_stored_quantized(const std::string& name) const;
  void read_components(Engine& engine, const QuantizedWeight& weight) const;
  void read_codes(Engine& engine, const QuantizedWeight& weight, const StoredCodec& stored) const;
  void read_safetensors(Engine& engine, const std::string& name, const Tensor& to) const;
  const GgufTensor* gguf_tensor(const std::string& name) const;  // or Error
  // The bytes of a tensor with rows in Hugging Face's order; `permuted` holds them where the file has another.
  const std::byte* gguf_bytes(const GgufTensor& t, const std::string& name, int64_t rows, std::vector<std::byte>& permuted) const;
  bool holds_blocks(const std::string& name, const QuantizedWeight& weight, const WeightDecoder& decoder) const;
  void read_blocks(Engine& engine, const std::string& name, const QuantizedWeight& weight) const;
  void read_gguf(Engine& engine, const std::string& name, const Tensor& to, const WeightDecoder& decoder) const;
  void initialize(Engine& engine, const std::string& name, uint32_t uid, uint32_t role, const Tensor& to, uint64_t seed) const;

  std::string path_;
  ModelConfig config_;
  std::shared_ptr<SafetensorsReader> safetensors_;
  std::shared_ptr<GgufFile> gguf_;
};

}  // namespace tenon::trainer
