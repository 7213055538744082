#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "core/files/gguf_writer.h"
#include "core/files/model_names.h"
#include "core/files/rope_freqs.h"
#include "hosts/trainer/run/gguf_metadata.h"
#include "hosts/trainer/run/quantized_export.h"

namespace tenon::trainer {
namespace {

constexpr const char* kRopeFactors = "rope_freqs.weight";

// The number that general.file_type has for a model whose linear weights are of one type; −1: none.
int32_t file_type(std::string_view type) {
  static constexpr std::pair<std::string_view, int32_t> kNumbers[] = {{"F32", 0},   {"F16", 1},   {"Q4_0", 2},  {"Q4_1", 3},  {"Q8_0", 7},  {"Q5_0", 8},    {"Q5_1", 9},
                                                                      {"Q2_K", 10}, {"Q3_K", 12}, {"Q4_K", 15}, {"Q5_K", 17}, {"Q6_K", 18}, {"IQ4_NL", 25}, {"BF16", 32}};
  for (const auto& [name, number] : kNumbers)
    if (name == type) return number;
  return -1;
}

// Hands the rows of a weight, coded as `type`, to `write`, a bounded number of bytes at a time.
void encode_rows(Engine& engine, const ExportWeight& w, const GgmlType& type, const WeightDecoder& codecs, const std::function<void(ByteSpan)>& write) {
  const Quantizer q = codecs.ggml(type.name);
  const int64_t row_bytes = w.width() / type.block_elements * type.block_bytes;
  const int64_t step = std::clamp<int64_t>((int64_t{32} << 20) / (w.width() * 4), 1, w.rows());
  std::vector<std::byte> host(static_cast<size_t>(step * row_bytes));
  for (int64_t r = 0; r < w.rows(); r += step) {
    const int64_t end = std::min(r + step, w.rows());
    const Tensor piece = engine.empty(Category::kWorkspace, kF32, {end - r, w.width()});
    w.read(r, end, piece);
    const Tensor blocks = engine.empty(Category::kCodec, kU8, {(end - r) * row_bytes});
    const tn_target target{sizeof(tn_target), TN_SITE_WEIGHT, w.role, w.uid, w.block, 2, kF32, 0, {end - r, w.width(), 0, 0}, w.name.c_str()};
    tn_estimate e{sizeof(tn_estimate)};
    check(q.api->estimate(q.self, engine.api(), engine.device(), &target, TN_QUANTIZER_ENCODE, piece.count(), &e), "planning an encoding");
    const Tensor::Ref component = blocks.ref();
    tn_tensor* components[1] = {&component.t};
    const tn_rng rng{0, w.uid, 0};
    engine.with_workspace(e.workspace_bytes, "encode",
                          [&](const tn_exec* x) { return q.api->encode(q.self, x, &target, piece.ref(), components, &rng); });
    engine.download(blocks, host.data());
    write({host.data(), static_cast<size_t>(blocks.bytes())});
  }
}

struct Planned {
  const ExportWeight* weight;  // null: copied from the source as it is
  const GgufTensor* original;  // null: the source is no GGUF file
};

class GgufExport {
 public:
  GgufExport(Engine& engine, const ExportWeights& weights, const ModelSource& source, const WeightDecoder& codecs, const GgmlType& linear, tn_dtype dtype)
      : engine_(engine), source_(source), codecs_(codecs), linear_(linear) {
    const GgmlType& plain = plain_ggml_type(dtype);
    std::set<std::string> taken;
    for (const ExportWeight& w : weights) {
      const auto name = gguf_name_from_hf(w.name);
      if (!name) throw Error(TN_E_UNSUPPORTED, "GGUF has no name for " + w.name + "; name an --output folder instead of a .gguf file");
      taken.insert(*name);
      const GgufTensor* original = source.gguf() ? source.gguf()->find_tensor(*name) : nullptr;
      if (original && !w.linear && !w.changed) {
        add(*name, *original->type, original->shape, {nullptr, original});
        continue;
      }
      const GgmlType& wanted = w.linear ? linear : w.shape.size() < 2 ? *find_ggml_type("F32") : plain;
      const GgmlType& type = w.shape.size() < 2 ? wanted : ggml_type_for_rows(wanted, w.width());
      if (&type != &wanted) ++size_.fallbacks[std::string(type.name)];
      add(*name, type, w.shape, {&w, original});
    }
    if (source.gguf()) {
      for (const GgufTensor& t : source.gguf()->tensors())
        if (!taken.contains(std::string(t.name))) add(std::string(t.name), *t.type, t.shape, {nullptr, &t});
    } else if (const RopeScaling& r = source.config().rope; r.kind == RopeKind::kLlama3) {
      const Llama3RopeScaling scaling{r.factor, r.low_freq_factor, r.high_freq_factor, static_cast<double>(r.original_length)};
      factors_ = llama3_rope_factors(static_cast<int>(source.config().head_dim), source.config().rope_theta, scaling);
      specs_.push_back({kRopeFactors, find_ggml_type("F32"), {static_cast<int64_t>(factors_.size())}});
    }
  }

  QuantizedSize write(const std::string& path) {
    GgufMetadata metadata = gguf_metadata_of(source_, size_.notes);
    if (const int32_t number = file_type(linear_.name); number >= 0) metadata.set_u32("general.file_type", static_cast<uint32_t>(number));
    if (linear_.block_elements > 1) metadata.set_u32("general.quantization_version", 2);
    GgufWriter writer(path, metadata, specs_);
    for (size_t i = 0; i < planned_.size(); ++i) {
      const auto& [weight, original] = planned_[i];
      const GgufTensorSpec& spec = specs_[i];
      if (!weight) {
        writer.write(spec.name, source_.gguf()->data(*original));
        source_.gguf()->drop(*original);
      } else {
        write_weight(*weight, spec, writer);
      }
    }
    if (!factors_.empty()) writer.write(kRopeFactors, std::as_bytes(std::span(factors_)));
    writer.commit();
    size_.total_bytes = std::filesystem::file_size(path);
    return std::move(size_);
  }

 private:
  void add(std::string name, const GgmlType& type, std::vector<int64_t> shape, Planned planned) {
    specs_.push_back({std::move(name), &type, std::move(shape)});
    planned_.push_back(planned);
  }

  void write_weight(const ExportWeight& w, const GgufTensorSpec& spec, GgufWriter& writer) {
    uint64_t bytes = 0;
    ggml_tensor_bytes(*spec.type, spec.shape, bytes);
    if (w.linear) size_.quantized_bytes += bytes, size_.quantized_weights += static_cast<uint64_t>(w.rows() * w.width());
    const auto coded = [&](const std::function<void(ByteSpan)>& put) {
      if (spec.type->name == "F32" || spec.type->name == "F16" || spec.type->name == "BF16")
        write_weight_as(engine_, w, spec.type->name == "F32" ? kF32 : spec.type->name == "F16" ? kF16 : kBF16, put);
      else
        encode_rows(engine_, w, *spec.type, codecs_, put);
    };
    const QkRole role = gguf_permutes_qk(architecture()) ? qk_role(w.name) : QkRole::kNone;
    if (role == QkRole::kNone) return coded([&](ByteSpan piece) { writer.write(spec.name, piece); });
    std::vector<std::byte> rows, permuted(bytes);
    rows.reserve(bytes);
    coded([&](ByteSpan piece) { rows.insert(rows.end(), piece.begin(), piece.end()); });
    const int64_t heads = role == QkRole::kQuery ? source_.config().heads : source_.config().kv_heads;
    permute_qk_rows_to_gguf(rows.data(), permuted.data(), w.rows(), bytes / w.rows(), heads);
    writer.write(spec.name, permuted);
  }

  std::string_view architecture() const {
    return source_.gguf() ? source_.gguf()->get_string("general.architecture") : gguf_architecture_from_model_type(source_.config().model_type);
  }

  Engine& engine_;
  const ModelSource& source_;
  const WeightDecoder& codecs_;
  const GgmlType& linear_;
  std::vector<GgufTensorSpec> specs_;
  std::vector<Planned> planned_;
  std::vector<float> factors_;
  QuantizedSize size_;
};

}  // namespace

const GgmlType& plain_ggml_type(tn_dtype dtype) { return *find_ggml_type(dtype == kF32 ? "F32" : dtype == kBF16 ? "BF16" : "F16"); }

QuantizedSize write_gguf(const std::string& path, Engine& engine, const ExportWeights& weights, const ModelSource& source, const WeightDecoder& codecs,
                         const GgmlType& linear, tn_dtype dtype) {
  if (source.config().edited) throw Error(TN_E_UNSUPPORTED, source.path() + " is an edited model, whose shape GGUF has no place for; name a folder as the output");
  return GgufExport(engine, weights, source, codecs, linear, dtype).write(path);
}

}  // namespace tenon::trainer
