// The key set in which bitsandbytes and transformers store a 4-bit weight: the codes under the weight's own name, then
// .absmax, .quant_map, with double quantization .nested_absmax and .nested_quant_map, and a JSON text in bytes with the
// rest.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "quantizers/nf4/codec.h"

namespace tenon::nf4 {
namespace {

using Json = nlohmann::json;
using Put = int32_t (*)(void*, const char*, const tn_tensor*);
using Get = const tn_tensor* (*)(void*, const char*);
using Holder = sdk::QuantizerThunks<Codec>::Holder;

std::string state_suffix(const Codec& codec) {
  return std::string(".quant_state.bitsandbytes__") + codec.book().name;
}

const char* torch_name(tn_dtype d) {
  return sdk::same(d, sdk::kBF16) ? "bfloat16" : sdk::same(d, sdk::kF16) ? "float16" : "float32";
}

std::string state_text(const Codec& codec, const tn_target& target, const Parts& parts) {
  std::string text = std::string("{\"quant_type\": \"") + codec.book().name +
                     "\", \"blocksize\": " + std::to_string(codec.blocksize()) + ", \"dtype\": \"" +
                     torch_name(target.dtype) + "\", \"shape\": [";
  for (int32_t i = 0; i < target.ndim; ++i) text += (i ? ", " : "") + std::to_string(target.shape[i]);
  text += "]";
  if (codec.double_quant()) {
    char offset[32];
    std::snprintf(offset, sizeof offset, "%.17g", static_cast<double>(*parts.nested_offset));
    text += std::string(", \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": ") + offset;
  }
  return text + "}";
}

void put_array(void* context, Put put, const std::string& suffix, void* data, tn_dtype dtype,
               std::initializer_list<int64_t> shape) {
  int64_t sizes[2] = {1, 1}, strides[2] = {1, 1};
  std::copy(shape.begin(), shape.end(), sizes);
  if (shape.size() == 2) strides[0] = sizes[1];
  const tn_tensor t{data, {TN_CPU, 0}, static_cast<int32_t>(shape.size()), dtype, sizes, strides, 0};
  sdk::check(put(context, suffix.c_str(), &t));
}

void to_external(const Codec& codec, const tn_target& target, tn_tensor* const* components, void* context, Put put) {
  const Sizes s(target, codec.blocksize());
  const Parts parts(s, codec.double_quant(), components);
  put_array(context, put, "", parts.codes, sdk::kU8, {s.codes, 1});
  float book[16];
  std::copy(std::begin(codec.book().value), std::end(codec.book().value), book);
  put_array(context, put, ".quant_map", book, sdk::kF32, {16});
  if (codec.double_quant()) {
    float map[256];
    std::copy(std::begin(sdk::kDynamicSigned.value), std::end(sdk::kDynamicSigned.value), map);
    put_array(context, put, ".absmax", parts.absmax_codes, sdk::kU8, {s.blocks});
    put_array(context, put, ".nested_absmax", parts.nested_absmax, sdk::kF32, {s.nested});
    put_array(context, put, ".nested_quant_map", map, sdk::kF32, {256});
  } else {
    put_array(context, put, ".absmax", parts.absmax, sdk::kF32, {s.blocks});
  }
  std::string text = state_text(codec, target, parts);
  put_array(context, put, state_suffix(codec), text.data(), sdk::kU8, {static_cast<int64_t>(text.size())});
}

// Reads one weight's tensors; every refusal names the weight and the key.
class Reader {
 public:
  Reader(const tn_target& target, void* context, Get get) : name_(sdk::name_of(target)), context_(context), get_(get) {}

  [[noreturn]] void refuse(const std::string& suffix, const std::string& why) const {
    sdk::fail(TN_E_FORMAT, name_ + suffix + ": " + why);
  }

  const tn_tensor* find(const std::string& suffix) const { return get_(context_, suffix.c_str()); }

  // Exactly n_bytes of plain memory, whatever element type carries them.
  const void* bytes(const std::string& suffix, int64_t n_bytes) const {
    const tn_tensor* t = find(suffix);
    if (!t) refuse(suffix, "the file has no such tensor, which a bitsandbytes weight of this kind needs");
    const int64_t held = sdk::count(*t) * t->dtype.bits / 8;
    if (!sdk::is_contiguous(*t) || held != n_bytes)
      refuse(suffix,
             "the tensor holds " + std::to_string(held) + " bytes where " + std::to_string(n_bytes) + " belong");
    return sdk::data<const char>(*t);
  }
  void copy(const std::string& suffix, void* to, int64_t n_bytes) const {
    const void* from = bytes(suffix, n_bytes);
    if (n_bytes > 0) std::memcpy(to, from, static_cast<size_t>(n_bytes));
  }
  // A code book in the file must be ours: a foreign one would decode to other weights without a word.
  void same_book(const std::string& suffix, const float* book, int64_t n) const {
    std::vector<float> found(static_cast<size_t>(n));
    copy(suffix, found.data(), 4 * n);
    for (int64_t i = 0; i < n; ++i)
      if (!(std::fabs(found[i] - book[i]) <= 1e-6f))
        refuse(suffix, "entry " + std::to_string(i) + " is not that of the known code book");
  }
  Json state(const std::string& suffix) const {
    const tn_tensor* t = find(suffix);
    if (!t) refuse(suffix, "the file has no such tensor; is the weight stored with another quant_type?");
    if (!sdk::is_contiguous(*t) || t->dtype.bits != 8 || sdk::count(*t) > 65536)
      refuse(suffix, "the tensor is not a short text in bytes");
    const char* text = sdk::data<const char>(*t);
    Json json = Json::parse(text, text + sdk::count(*t), nullptr, false);
    if (!json.is_object()) refuse(suffix, "the text is not a JSON object");
    return json;
  }

 private:
  std::string name_;
  void* context_;
  Get get_;
};

int64_t whole(const Json& json, const char* key) {
  const auto it = json.find(key);
  return it != json.end() && it->is_number_integer() ? it->get<int64_t>() : -1;
}

void check_state(const Codec& codec, const tn_target& target, const Reader& reader, const Json& json,
                 const std::string& suffix) {
  const auto type = json.find("quant_type");
  if (type == json.end() || !type->is_string() || *type != codec.book().name)
    reader.refuse(suffix, "quant_type is not the one in its name");
  if (whole(json, "blocksize") != codec.blocksize())
    reader.refuse(suffix, "the weight was coded with blocksize " + std::to_string(whole(json, "blocksize")) +
                              "; load it with nf4:blocksize=" + std::to_string(whole(json, "blocksize")));
  const auto shape = json.find("shape");
  if (shape == json.end() || !shape->is_array()) reader.refuse(suffix, "the shape is missing");
  int64_t n = 1;
  for (const Json& size : *shape)
    if (!size.is_number_integer() || __builtin_mul_overflow(n, size.get<int64_t>(), &n)) n = -1;
  if (n != sdk::elements(target)) reader.refuse(suffix, "the shape does not have the weight's number of elements");
  if (json.contains("nested_offset") != codec.double_quant())
    reader.refuse(suffix, codec.double_quant()
                              ? "the scales are not doubly quantized; load it with nf4:double_quant=false"
                              : "the scales are doubly quantized; load it with nf4:double_quant=true");
}

void from_external(const Codec& codec, const tn_target& target, void* context, Get get, tn_tensor* const* components) {
  const Sizes s(target, codec.blocksize());
  const Parts parts(s, codec.double_quant(), components);
  const Reader reader(target, context, get);
  const std::string suffix = state_suffix(codec);
  const Json json = reader.state(suffix);
  check_state(codec, target, reader, json, suffix);
  reader.same_book(".quant_map", codec.book().value, 16);
  if (codec.double_quant()) {
    const auto offset = json.find("nested_offset");
    if (!offset->is_number() || whole(json, "nested_blocksize") != kNestedBlock)
      reader.refuse(suffix, "nested_offset must be a number and nested_blocksize 256");
    *parts.nested_offset = static_cast<float>(offset->get<double>());
    reader.same_book(".nested_quant_map", sdk::kDynamicSigned.value, 256);
    reader.copy(".absmax", parts.absmax_codes, s.blocks);
    reader.copy(".nested_absmax", parts.nested_absmax, 4 * s.nested);
  } else {
    reader.copy(".absmax", parts.absmax, 4 * s.blocks);
  }
  reader.copy("", parts.codes, s.codes);
}

std::string config_text(const Codec& codec) {
  if (codec.blocksize() != 64)
    sdk::fail(TN_E_UNSUPPORTED, "transformers reads bitsandbytes models with blocks of 64; use nf4:blocksize=64");
  Json j{{"quant_method", "bitsandbytes"},
         {"_load_in_4bit", true},
         {"_load_in_8bit", false},
         {"load_in_4bit", true},
         {"load_in_8bit", false},
         {"bnb_4bit_quant_type", codec.book().name},
         {"bnb_4bit_use_double_quant", codec.double_quant()},
         {"bnb_4bit_compute_dtype", "float32"},
         {"bnb_4bit_quant_storage", "uint8"}};
  return j.dump();
}

std::string hypers_text(const char* text) {
  const Json j = Json::parse(text, nullptr, false);
  if (!j.is_object()) sdk::fail(TN_E_FORMAT, "quantization_config is not a JSON object");
  const auto flag = [&](const char* key) {
    const auto it = j.find(key);
    return it != j.end() && it->is_boolean() && it->get<bool>();
  };
  if (flag("load_in_8bit") || !flag("load_in_4bit"))
    sdk::fail(TN_E_UNSUPPORTED,
              "quantization_config: of bitsandbytes' models those with load_in_4bit are read; start from the plain model");
  const auto type = j.find("bnb_4bit_quant_type");
  const std::string name = type == j.end() ? "fp4" : type->is_string() ? type->get<std::string>() : "";
  if (name != "nf4" && name != "fp4")
    sdk::fail(TN_E_UNSUPPORTED, "quantization_config: bnb_4bit_quant_type is neither nf4 nor fp4");
  const auto storage = j.find("bnb_4bit_quant_storage");
  if (storage != j.end() && !storage->is_null() && *storage != "uint8" && *storage != "torch.uint8" &&
      *storage != "bfloat16" && *storage != "float16" && *storage != "float32")
    sdk::fail(TN_E_UNSUPPORTED, "quantization_config: bnb_4bit_quant_storage is not a type that is known");
  return "quant_type=" + name + ",double_quant=" + (flag("bnb_4bit_use_double_quant") ? "true" : "false");
}

void send(const tn_sink& sink, const std::string& text) {
  sdk::check(sink.write(sink.self, text.data(), text.size()));
}

void require_layout(const char* layout) {
  if (std::strcmp(layout, "bitsandbytes") != 0)
    sdk::fail(TN_E_UNSUPPORTED, std::string("nf4 speaks the layout bitsandbytes, not ") + layout);
}

int32_t to_external_thunk(tn_quantizer* self, const char* layout, const tn_target* target, tn_tensor* const* components,
                          void* context, Put put) {
  Holder* holder = reinterpret_cast<Holder*>(self);
  return sdk::guard(holder->host, [&] {
    require_layout(layout);
    to_external(holder->codec, *target, components, context, put);
  });
}

int32_t from_external_thunk(tn_quantizer* self, const char* layout, const tn_target* target, void* context, Get get,
                            tn_tensor* const* components) {
  Holder* holder = reinterpret_cast<Holder*>(self);
  return sdk::guard(holder->host, [&] {
    require_layout(layout);
    from_external(holder->codec, *target, context, get, components);
  });
}

int32_t write_config_thunk(tn_quantizer* self, const char* layout, const tn_sink* sink) {
  Holder* holder = reinterpret_cast<Holder*>(self);
  return sdk::guard(holder->host, [&] {
    require_layout(layout);
    send(*sink, config_text(holder->codec));
  });
}

int32_t read_config_thunk(const tn_host* host, const char* layout, const char* config, const tn_sink* hypers) {
  return sdk::guard(host, [&] {
    require_layout(layout);
    send(*hypers, hypers_text(config));
  });
}

constexpr const char* kNames[] = {"bitsandbytes", nullptr};

}  // namespace

const tn_layout kLayout{TN_SIZE_TO(tn_layout, read_config), 0, kNames, to_external_thunk,
                         from_external_thunk, write_config_thunk, read_config_thunk};

}  // namespace tenon::nf4
