// libtenon as a binding sees it: the C functions alone, on the plugins of the build tree.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tenon/tenon.h"

namespace {

constexpr tn_dtype kF32 = {TN_FLOAT, 32, 1};

std::string take(char* text) {
  const std::string copy = text ? text : "";
  tn_free_string(text);
  return copy;
}

class CApi : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* const stores[] = {TENON_BINARY_DIR "/lib/tenon"};
    ASSERT_EQ(tn_context_open(stores, 1, &context_), TN_OK) << tn_last_error();
    ASSERT_EQ(tn_session_open(context_, "onednn", uint64_t{1} << 30, &session_), TN_OK) << tn_last_error();
  }
  void TearDown() override {
    tn_session_close(session_);
    tn_context_close(context_);
  }

  tn_tensor* tensor(const std::vector<int64_t>& shape, const std::vector<float>& values = {},
                    uint32_t category = TN_MEMORY_WEIGHTS) {
    tn_tensor* t = nullptr;
    EXPECT_EQ(tn_tensor_alloc(session_, category, &kF32, static_cast<int32_t>(shape.size()), shape.data(), &t), TN_OK)
        << tn_last_error();
    if (!values.empty()) {
      EXPECT_EQ(tn_tensor_write(session_, t, values.data(), values.size() * 4), TN_OK) << tn_last_error();
    }
    return t;
  }
  std::vector<float> values(const tn_tensor* t) {
    int64_t n = 1;
    for (int i = 0; i < t->ndim; ++i) n *= t->shape[i];
    std::vector<float> out(static_cast<size_t>(n));
    EXPECT_EQ(tn_tensor_read(session_, t, out.data(), out.size() * 4), TN_OK) << tn_last_error();
    return out;
  }
  tn_technique* make(uint32_t kind, const char* spec) {
    tn_technique* technique = nullptr;
    EXPECT_EQ(tn_technique_create(session_, kind, spec, &technique), TN_OK) << tn_last_error();
    return technique;
  }
  static tn_param param(uint32_t uid, int64_t rows, int64_t columns) {
    tn_param p{};
    p.struct_size = TN_SIZE_TO(tn_param, name);
    p.uid = uid, p.role = TN_ROLE_Q, p.repr = TN_REPR_DENSE, p.tied_to = -1, p.dtype = kF32, p.ndim = 2, p.in_axis = 1;
    p.shape[0] = rows, p.shape[1] = columns, p.name = "w";
    return p;
  }
  static std::vector<float> wave(size_t n, float phase) {
    std::vector<float> out(n);
    for (size_t i = 0; i < n; ++i) out[i] = std::sin(0.37f * static_cast<float>(i) + phase);
    return out;
  }

  tn_context* context_ = nullptr;
  tn_session* session_ = nullptr;
};

TEST_F(CApi, SpeaksOfItselfAndOfWhatIsInstalled) {
  EXPECT_STREQ(tn_version(), "0.9.0");
  uint32_t major = 9, minor = 0;
  tn_abi_version(&major, &minor);
  EXPECT_EQ(major, 0u);
  EXPECT_EQ(minor, 9u);
  EXPECT_STREQ(tn_status_name(TN_E_TRUST), "TN_E_TRUST");
  char* json = nullptr;
  ASSERT_EQ(tn_plugin_list(context_, "optimizer", &json), TN_OK);
  const std::string list = take(json);
  EXPECT_NE(list.find("\"id\":\"adamw\""), std::string::npos) << list;
  EXPECT_EQ(list.find("\"kind\":\"quantizer\""), std::string::npos) << list;
  ASSERT_EQ(tn_plugin_info(context_, "adamw", &json), TN_OK);
  EXPECT_NE(take(json).find("\"beta2\""), std::string::npos);
  ASSERT_EQ(tn_session_info(session_, &json), TN_OK);
  EXPECT_NE(take(json).find("\"backend\":\"onednn\""), std::string::npos);
}

TEST_F(CApi, ErrorsAreSentences) {
  char* json = nullptr;
  EXPECT_EQ(tn_plugin_info(context_, "adamv", &json), TN_E_NOT_FOUND);
  EXPECT_STREQ(tn_last_error(), "no plugin named 'adamv' is installed; did you mean 'adamw'?");
  EXPECT_EQ(tn_plugin_list(context_, "optimiser", &json), TN_E_ARGUMENT);
  EXPECT_EQ(tn_plugin_list(nullptr, nullptr, &json), TN_E_ARGUMENT);
  EXPECT_STREQ(tn_last_error(), "the argument context is null");
  tn_technique* technique = nullptr;
  EXPECT_EQ(tn_technique_create(session_, TN_KIND_OPTIMIZER, "adamw:beta2=1.5", &technique), TN_E_ARGUMENT);
  EXPECT_NE(std::string(tn_last_error()).find("beta2=1.5 is not valid"), std::string::npos);
  EXPECT_EQ(tn_technique_create(session_, TN_KIND_ATTENTION, "flash-attention", &technique), TN_E_ARGUMENT);
  tn_session* session = nullptr;
  EXPECT_EQ(tn_session_open(context_, "abacus", 0, &session), TN_E_NOT_FOUND);
  EXPECT_NE(std::string(tn_last_error()).find("abacus"), std::string::npos);
  tn_tensor* t = nullptr;
  const int64_t huge[] = {int64_t{1} << 40, int64_t{1} << 40};
  EXPECT_EQ(tn_tensor_alloc(session_, TN_MEMORY_WEIGHTS, &kF32, 2, huge, &t), TN_E_ARGUMENT);
  const int64_t large[] = {int64_t{1} << 30};
  EXPECT_EQ(tn_tensor_alloc(session_, TN_MEMORY_WEIGHTS, &kF32, 1, large, &t), TN_E_MEMORY);
  EXPECT_NE(std::string(tn_last_error()).find("memory limit of 1.00 GiB"), std::string::npos) << tn_last_error();
  tn_free_string(nullptr);
  tn_technique_destroy(nullptr);
  tn_coded_free(nullptr);
  tn_session_close(nullptr);
  tn_context_close(nullptr);
}

TEST_F(CApi, ChecksAMix) {
  const uint32_t kinds[] = {TN_KIND_OPTIMIZER};
  const char* const specs[] = {"adamw:beta1=0.8"};
  const char* const cuda[] = {"device:no-such-device"};
  char* json = nullptr;
  ASSERT_EQ(tn_check(context_, kinds, specs, 1, nullptr, 0, &json), TN_OK) << tn_last_error();
  const std::string yes = take(json);
  EXPECT_NE(yes.find("\"possible\":true"), std::string::npos) << yes;
  EXPECT_NE(yes.find("adamw:beta1=0.8"), std::string::npos) << yes;
  ASSERT_EQ(tn_check(context_, kinds, specs, 1, cuda, 1, &json), TN_OK);
  EXPECT_NE(take(json).find("adamw: it has no object for the device no-such-device"), std::string::npos);
}

TEST_F(CApi, AdamWStepsSavesAndResumesBitForBit) {
  constexpr double kLr = 0.1;
  const tn_param p = param(7, 3, 5);
  const tn_param* const params[] = {&p};
  tn_update update{};
  update.struct_size = TN_SIZE_TO(tn_update, grad_scale);
  update.lr = kLr, update.grad_scale = 1, update.seed = 1;
  tn_tensor* const g = tensor({3, 5}, {}, TN_MEMORY_GRADIENTS);

  // `n` steps of one instance from `w`; `blob` is loaded first where it has content, and holds the states afterwards.
  const auto run = [&](std::vector<float> w, int first, int n, std::string& blob) {
    tn_technique* const adamw = make(TN_KIND_OPTIMIZER, "adamw");
    EXPECT_EQ(tn_optimizer_bind(adamw, params, 1), TN_OK) << tn_last_error();
    EXPECT_EQ(tn_optimizer_state_bytes(adamw), 2u * 15 * 4);
    if (!blob.empty()) {
      EXPECT_EQ(tn_optimizer_load(adamw, blob.data(), blob.size()), TN_OK) << tn_last_error();
    }
    EXPECT_EQ(tn_optimizer_steps(adamw), first);
    tn_tensor* t = tensor({3, 5}, w);
    for (int i = first; i < first + n; ++i) {
      const std::vector<float> gradient = wave(15, 0.3f + static_cast<float>(i));
      EXPECT_EQ(tn_tensor_write(session_, g, gradient.data(), 60), TN_OK);
      EXPECT_EQ(tn_optimizer_step(adamw, &update, &t, &g), TN_OK) << tn_last_error();
    }
    w = values(t);
    blob.clear();
    const tn_sink sink = {TN_SIZE_TO(tn_sink, write), 0, &blob,
                          [](void* self, const void* bytes, uint64_t size) -> int32_t {
                            static_cast<std::string*>(self)->append(static_cast<const char*>(bytes), size);
                            return TN_OK;
                          }};
    EXPECT_EQ(tn_optimizer_save(adamw, &sink), TN_OK) << tn_last_error();
    tn_tensor_free(session_, t);
    tn_technique_destroy(adamw);
    return w;
  };
  const std::vector<float> start = wave(15, 0.5f);
  std::string blob, whole_blob;
  const std::vector<float> one = run(start, 0, 1, blob);
  for (size_t i = 0; i < 15; ++i)
    EXPECT_NEAR(std::abs(one[i] - start[i]), kLr, 0.1 * kLr) << "Adam's first step has the size of lr";
  const std::vector<float> resumed = run(one, 1, 4, blob);
  EXPECT_EQ(run(start, 0, 5, whole_blob), resumed);
  EXPECT_EQ(whole_blob, blob);

  tn_technique* const sgd = make(TN_KIND_OPTIMIZER, "sgd");
  ASSERT_EQ(tn_optimizer_bind(sgd, params, 1), TN_OK) << tn_last_error();
  EXPECT_EQ(tn_optimizer_load(sgd, blob.data(), blob.size()), TN_E_CONFLICT);
  EXPECT_STREQ(tn_last_error(),
               "these are the states of adamw, not of sgd; load them into the optimizer that wrote them");
  tn_technique_destroy(sgd);
  tn_technique* const other = make(TN_KIND_OPTIMIZER, "adamw");
  EXPECT_EQ(tn_optimizer_step(other, &update, nullptr, nullptr), TN_E_STATE);
  const tn_param larger = param(7, 3, 6);
  const tn_param* const others[] = {&larger};
  ASSERT_EQ(tn_optimizer_bind(other, others, 1), TN_OK);
  EXPECT_EQ(tn_optimizer_bind(other, others, 1), TN_E_STATE);
  EXPECT_EQ(tn_optimizer_load(other, blob.data(), blob.size()), TN_E_CONFLICT);
  tn_technique_destroy(other);
  tn_technique* const damaged = make(TN_KIND_OPTIMIZER, "adamw");
  ASSERT_EQ(tn_optimizer_bind(damaged, params, 1), TN_OK);
  for (const size_t size : {size_t{0}, size_t{5}, size_t{12}, size_t{40}, blob.size() - 1}) {
    EXPECT_EQ(tn_optimizer_load(damaged, blob.data(), size), TN_E_FORMAT) << size;
  }
  std::string long_header = blob;
  std::memset(&long_header[8], 0x7f, 8);
  EXPECT_EQ(tn_optimizer_load(damaged, long_header.data(), long_header.size()), TN_E_FORMAT);
  tn_technique_destroy(damaged);
}

TEST_F(CApi, QuantizesAndDecodesAnyRange) {
  tn_technique* const nf4 = make(TN_KIND_QUANTIZER, "nf4");
  const std::vector<float> w = wave(64 * 128, 0);
  tn_tensor* const src = tensor({64, 128}, w);
  tn_target target{};
  target.struct_size = TN_SIZE_TO(tn_target, name);
  target.site = TN_SITE_WEIGHT, target.role = TN_ROLE_Q, target.ndim = 2, target.dtype = kF32, target.shape[0] = 64,
  target.shape[1] = 128;
  target.name = "w";
  tn_coded* coded = nullptr;
  ASSERT_EQ(tn_quantizer_encode(nf4, &target, src, 1, &coded), TN_OK) << tn_last_error();
  EXPECT_GE(tn_coded_bytes(coded), 64u * 128 / 2);
  EXPECT_LT(tn_coded_bytes(coded), 64u * 128);
  tn_tensor* const all = tensor({64, 128});
  ASSERT_EQ(tn_quantizer_decode(nf4, coded, 0, 64 * 128, all), TN_OK) << tn_last_error();
  const std::vector<float> decoded = values(all);
  double error = 0, norm = 0;
  for (size_t i = 0; i < w.size(); ++i) error += (w[i] - decoded[i]) * (w[i] - decoded[i]), norm += w[i] * w[i];
  EXPECT_LT(std::sqrt(error / norm), 0.12);
  tn_tensor* const part = tensor({101});
  ASSERT_EQ(tn_quantizer_decode(nf4, coded, 77, 178, part), TN_OK) << tn_last_error();
  EXPECT_EQ(values(part), std::vector<float>(decoded.begin() + 77, decoded.begin() + 178));
  EXPECT_EQ(tn_quantizer_decode(nf4, coded, 0, 100, part), TN_E_ARGUMENT);
  EXPECT_EQ(tn_quantizer_decode(nf4, coded, -1, 100, part), TN_E_ARGUMENT);
  const tn_component* info = nullptr;
  tn_tensor* component = nullptr;
  ASSERT_EQ(tn_coded_component(coded, 0, &info, &component), TN_OK);
  EXPECT_NE(info->name, nullptr);
  EXPECT_NE(component->data, nullptr);
  EXPECT_EQ(tn_coded_component(coded, 99, &info, &component), TN_E_NOT_FOUND);
  target.shape[1] = 127;
  tn_coded* none = nullptr;
  EXPECT_EQ(tn_quantizer_encode(nf4, &target, src, 1, &none), TN_E_ARGUMENT);
  tn_coded_free(coded);
  tn_technique_destroy(nf4);
}

TEST_F(CApi, AttendsCausally) {
  tn_attention_config config{};
  config.struct_size = TN_SIZE_TO(tn_attention_config, softcap);
  config.n_heads = 2, config.n_kv_heads = 1, config.d_qk = config.d_v = 16, config.n_layers = 1,
  config.n_heads_global = 2;
  tn_technique* flash = nullptr;
  ASSERT_EQ(tn_attention_create(session_, "flash-attention", &config, &flash), TN_OK) << tn_last_error();
  tn_tensor* const q = tensor({1, 8, 2, 16}, wave(256, 0));
  tn_tensor* const k = tensor({1, 8, 1, 16}, wave(128, 1));
  const std::vector<float> v_values = wave(128, 2);
  tn_tensor* const v = tensor({1, 8, 1, 16}, v_values);
  tn_tensor* const o = tensor({1, 8, 2, 16});
  ASSERT_EQ(tn_attention_forward(flash, q, k, v, 0, o, nullptr), TN_OK) << tn_last_error();
  const std::vector<float> all = values(o);
  for (int i = 0; i < 32; ++i) EXPECT_NEAR(all[i], v_values[i % 16], 1e-6) << "the first token sees itself alone";
  ASSERT_EQ(tn_attention_forward(flash, q, k, v, 1, o, nullptr), TN_OK) << tn_last_error();
  const std::vector<float> self = values(o);
  for (int t = 0; t < 8; ++t)
    EXPECT_NEAR(self[32 * t + 5], v_values[16 * t + 5], 1e-6) << "a window of one sees itself alone";
  EXPECT_EQ(tn_attention_forward(flash, k, k, v, 0, o, nullptr), TN_E_ARGUMENT);
  EXPECT_NE(std::string(tn_last_error()).find("q does not have the shape [1, 8, 2, 16]"), std::string::npos)
      << tn_last_error();
  tn_technique_destroy(flash);
  config.n_heads = 3, config.n_kv_heads = 2;
  EXPECT_EQ(tn_attention_create(session_, "flash-attention", &config, &flash), TN_E_ARGUMENT);
}

TEST_F(CApi, AttentionGoesBackward) {
  tn_attention_config config{};
  config.struct_size = TN_SIZE_TO(tn_attention_config, softcap);
  config.n_heads = 2, config.n_kv_heads = 1, config.d_qk = config.d_v = 16, config.n_layers = 1,
  config.n_heads_global = 2;
  tn_technique* flash = nullptr;
  ASSERT_EQ(tn_attention_create(session_, "flash-attention", &config, &flash), TN_OK) << tn_last_error();
  std::vector<float> q_values = wave(256, 0), d_values = wave(256, 3);
  tn_tensor* const k = tensor({1, 8, 1, 16}, wave(128, 1));
  tn_tensor* const v = tensor({1, 8, 1, 16}, wave(128, 2));
  tn_tensor* const q = tensor({1, 8, 2, 16}, q_values);
  tn_tensor *const o = tensor({1, 8, 2, 16}), *const lse = tensor({1, 2, 8}),
                   *const d_o = tensor({1, 8, 2, 16}, d_values);
  tn_tensor *const dq = tensor({1, 8, 2, 16}), *const dk = tensor({1, 8, 1, 16}), *const dv = tensor({1, 8, 1, 16});
  ASSERT_EQ(tn_attention_forward(flash, q, k, v, 0, o, lse), TN_OK) << tn_last_error();
  ASSERT_EQ(tn_attention_backward(flash, q, k, v, 0, o, lse, d_o, dq, dk, dv), TN_OK) << tn_last_error();
  // The last token's query, moved both ways, against the definition of a derivative.
  const auto product = [&](float moved) {
    std::vector<float> at = q_values;
    at[240] += moved;
    tn_tensor* const other = tensor({1, 8, 2, 16}, at);
    EXPECT_EQ(tn_attention_forward(flash, other, k, v, 0, o, nullptr), TN_OK) << tn_last_error();
    double sum = 0;
    const std::vector<float> result = values(o);
    for (size_t i = 0; i < result.size(); ++i) sum += static_cast<double>(result[i]) * d_values[i];
    return sum;
  };
  EXPECT_NEAR(values(dq)[240], (product(0.02f) - product(-0.02f)) / 0.04, 1e-4);
  // Values of the last token reach the last token alone, weighted by its probabilities: their gradient is no other's.
  EXPECT_NE(values(dv)[112], 0);
  EXPECT_NE(values(dk)[0], 0);
  EXPECT_EQ(tn_attention_backward(flash, q, k, v, 0, o, nullptr, d_o, dq, dk, dv), TN_E_ARGUMENT);
  EXPECT_NE(std::string(tn_last_error()).find("lse"), std::string::npos) << tn_last_error();
  EXPECT_EQ(tn_attention_backward(flash, q, k, v, 0, o, lse, d_o, dk, dk, dv), TN_E_ARGUMENT);
  EXPECT_NE(std::string(tn_last_error()).find("dq does not have the shape [1, 8, 2, 16]"), std::string::npos)
      << tn_last_error();
  tn_technique_destroy(flash);
}

TEST_F(CApi, RefusesTensorsThatCannotBeUsed) {
  tn_technique* const sgd = make(TN_KIND_OPTIMIZER, "sgd");
  const tn_param p = param(1, 4, 4);
  const tn_param* const params[] = {&p};
  ASSERT_EQ(tn_optimizer_bind(sgd, params, 1), TN_OK) << tn_last_error();
  tn_update update{};
  update.struct_size = TN_SIZE_TO(tn_update, grad_scale);
  update.lr = 0.1, update.grad_scale = 1;
  tn_tensor* const good = tensor({4, 4}, wave(16, 0));
  const std::vector<float> before = values(good);
  const auto refused = [&](const tn_tensor& weight, const tn_tensor& gradient, const char* words) {
    tn_tensor w = weight, g = gradient;
    tn_tensor* const ws[] = {&w};
    tn_tensor* const gs[] = {&g};
    EXPECT_EQ(tn_optimizer_step(sgd, &update, ws, gs), TN_E_ARGUMENT) << words;
    EXPECT_NE(std::string(tn_last_error()).find(words), std::string::npos) << tn_last_error();
  };
  tn_tensor bad = *good;
  bad.data = nullptr;
  refused(bad, *good, "the parameter has elements but no memory");
  bad = *good, bad.byte_offset = 2;
  refused(*good, bad, "the gradient is not aligned to its elements of 4 bytes");
  bad = *good, bad.dtype = {TN_FLOAT, 64, 1};
  refused(*good, bad, "the gradient has elements of the type float64, not float32");
  bad = *good, bad.dtype = {TN_BFLOAT, 16, 1};
  refused(bad, *good, "the parameter has elements of the type bfloat16");
  bad = *good, bad.device = {TN_CUDA, 0};
  refused(bad, *good, "lies on device 2:0 but the session on 1:0");
  bad = *good, bad.strides = nullptr;
  refused(bad, *good, "has no shape or no strides");
  int64_t columns[] = {1, 4}, far[] = {INT64_MAX, 1}, less[] = {-4, 4};
  bad = *good, bad.strides = columns;
  refused(bad, *good, "is not dense row-major");
  bad = *good, bad.strides = far;
  refused(bad, *good, "reach beyond any memory");
  bad = *good, bad.shape = less;
  refused(bad, *good, "the size -4 in dimension 0");
  void* const page = mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(page, MAP_FAILED);
  bad = *good, bad.data = page;
  refused(bad, *good, "lies in memory that cannot be written");
  munmap(page, 4096);
  refused(*good, bad, "lies in memory that cannot be read");
  EXPECT_EQ(values(good), before);
  tn_technique_destroy(sgd);
}

TEST_F(CApi, MemoryIsCounted) {
  tn_tensor* const t = tensor({1000});
  char* json = nullptr;
  ASSERT_EQ(tn_session_info(session_, &json), TN_OK);
  const std::string info = take(json);
  EXPECT_NE(info.find("\"weights\":{\"live\":4032,\"peak\":4032}"), std::string::npos) << info;
  tn_tensor_free(session_, t);
  ASSERT_EQ(tn_session_info(session_, &json), TN_OK);
  EXPECT_NE(take(json).find("\"live_bytes\":0"), std::string::npos);
  EXPECT_EQ(tn_session_wait(session_), TN_OK);
  tn_exec exec{};
  ASSERT_EQ(tn_session_exec(session_, &exec), TN_OK);
  EXPECT_NE(exec.api, nullptr);
}

TEST(CApiStores, InstallsVerifiesRescansAndRemoves) {
  namespace fs = std::filesystem;
  std::string folder = (fs::temp_directory_path() / "tenon-c-api-XXXXXX").string();
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const std::string store = folder + "/store";
  const char* const stores[] = {store.c_str()};
  tn_context* context = nullptr;
  ASSERT_EQ(tn_context_open(stores, 1, &context), TN_OK) << tn_last_error();
  char* json = nullptr;
  EXPECT_EQ(tn_plugin_install(context, folder.c_str(), &json), TN_E_NOT_FOUND);
  ASSERT_EQ(tn_plugin_install(context, TENON_BINARY_DIR "/lib/tenon/staging/sgd", &json), TN_OK) << tn_last_error();
  EXPECT_NE(take(json).find("\"changed\":true"), std::string::npos);
  ASSERT_EQ(tn_plugin_list(context, nullptr, &json), TN_OK);
  EXPECT_NE(take(json).find("\"id\":\"sgd\""), std::string::npos);
  ASSERT_EQ(tn_plugin_verify(context, &json), TN_OK) << tn_last_error();
  EXPECT_EQ(take(json), "{\"plugins\":1,\"problems\":[]}");
  std::ofstream(store + "/catalog.sqlite") << "not a catalog";
  tn_context* second = nullptr;
  ASSERT_EQ(tn_context_open(stores, 1, &second), TN_OK) << "a damaged catalog can be rebuilt through a context";
  EXPECT_EQ(tn_plugin_list(second, nullptr, &json), TN_E_FORMAT);
  ASSERT_EQ(tn_plugin_rescan(second, &json), TN_OK) << tn_last_error();
  EXPECT_EQ(take(json), "{\"plugins\":1,\"problems\":[]}");
  ASSERT_EQ(tn_plugin_remove(second, "sgd"), TN_OK) << tn_last_error();
  EXPECT_EQ(tn_plugin_remove(second, "sgd"), TN_E_NOT_FOUND);
  ASSERT_EQ(tn_plugin_list(second, nullptr, &json), TN_OK) << tn_last_error();
  EXPECT_EQ(take(json), "[]");
  tn_context_close(second);
  tn_context_close(context);
  fs::remove_all(folder);
}

}  // namespace
