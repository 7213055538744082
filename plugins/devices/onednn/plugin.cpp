// The oneDNN device: this machine's CPU.
#include "sdk/plugin.h"

#include "devices/onednn/choose_type.h"
#include "devices/onednn/device.h"
#include "devices/onednn/gemm8.h"
#include "devices/onednn/info.h"
#include "devices/onednn/memory.h"
#include "devices/ops/gemm_fp8.h"
#include "devices/ops/table.h"

namespace {

using namespace tenon;

struct Backend {
  static constexpr bool kHostReadable = true;
  static const tn_host* host(tn_device* device) { return device->host; }
  static const tn_device_api* api();
  static bool codes_as_bf16() { return onednn::bf16_is_fast(); }
  static bool fp8_workspace(tn_device*, const tn_fp8_product&, uint64_t*) { return false; }
  static bool fp8_product(tn_device*, tn_stream*, const tn_fp8_product&, void*, uint64_t) { return false; }
  static tn_exec exec(tn_device* device, tn_stream* stream) {
    alignas(TN_ALIGNMENT) static thread_local unsigned char scratch[ops::kScratchBytes];
    return {sizeof(tn_exec), 0, nullptr, device, stream, scratch, sizeof scratch};
  }
};

int32_t count(const tn_host*, uint32_t* n) {
  *n = 1;
  return TN_OK;
}

int32_t open(const tn_host* host, uint32_t index, tn_device** out) {
  return sdk::guard(host, [&] {
    if (index != 0)
      sdk::fail(TN_E_NOT_FOUND, "there is one CPU device, number 0, and no number " + std::to_string(index));
    *out = new tn_device{host, {}, {}, {}};
  });
}
void close(tn_device* device) {
  delete device;
}

int32_t stream_create(tn_device* device, tn_stream** out) {
  return sdk::guard(device->host, [&] { *out = new tn_stream; });
}
void stream_destroy(tn_device*, tn_stream* stream) {
  delete stream;
}
int32_t stream_wait(tn_device*, tn_stream*) {
  return TN_OK;
}

int32_t event_create(tn_device* device, tn_event** out) {
  return sdk::guard(device->host, [&] { *out = new tn_event{}; });
}
void event_destroy(tn_device*, tn_event* event) {
  delete event;
}
int32_t event_record(tn_device*, tn_event* event, tn_stream*) {
  event->at = std::chrono::steady_clock::now();
  return TN_OK;
}
int32_t stream_wait_event(tn_device*, tn_stream*, tn_event*) {
  return TN_OK;
}
int32_t event_seconds(tn_device*, tn_event* begin, tn_event* end, double* seconds) {
  *seconds = std::chrono::duration<double>(end->at - begin->at).count();
  return TN_OK;
}

int32_t gemm_workspace(tn_device* device, const tn_gemm* gemm, uint64_t* n_bytes) {
  return sdk::guard(device->host,
                    [&] { *n_bytes = device->plans.get(onednn::normalize(*gemm, nullptr))->workspace_bytes(); });
}

int32_t gemm(tn_device* device, tn_stream*, const tn_gemm* gemm, void* workspace, uint64_t workspace_bytes) {
  return sdk::guard(device->host, [&] {
    onednn::Pointers pointers;
    const auto plan = device->plans.get(onednn::normalize(*gemm, &pointers));
    if (workspace_bytes < plan->workspace_bytes())
      sdk::fail(TN_E_ARGUMENT, "gemm: the workspace has " + std::to_string(workspace_bytes) +
                                   " bytes where gemm_workspace asks for " + std::to_string(plan->workspace_bytes()));
    plan->run(pointers, workspace);
  });
}

// Packing pays where B is of the type of the product and the library has a layout of its own for it.
onednn::Packing packing(const onednn::Problem& p) {
  const onednn::Type type = onednn::compute_type(p.a, p.b, p.exact);
  const bool offered =
      static_cast<int64_t>(p.b) == static_cast<int64_t>(type) && p.batch_axes == 0 && !p.swapped && p.k > 0 && p.n > 0;
  return offered ? onednn::packing_of(p.k, p.n, type) : onednn::Packing{0};
}

int32_t pack_bytes(tn_device* device, const tn_gemm* gemm, uint64_t* n_bytes) {
  return sdk::guard(device->host, [&] { *n_bytes = packing(onednn::normalize(*gemm, nullptr)).bytes; });
}

int32_t pack(tn_device* device, tn_stream*, const tn_gemm* gemm, void* packed_b) {
  return sdk::guard(device->host, [&] {
    tn_gemm plain = *gemm;
    plain.packed_b = nullptr;
    onednn::Pointers pointers;
    const onednn::Problem p = onednn::normalize(plain, &pointers);
    if (packing(p).bytes == 0)
      sdk::fail(TN_E_UNSUPPORTED, "gemm: packing is not offered for this B; pack_bytes answers 0");
    onednn::pack(p.k, p.n, onednn::compute_type(p.a, p.b, p.exact), p.b_row, p.b_col, pointers.b, packed_b);
  });
}

constexpr tn_ops kOps = ops::ops_table<Backend>();
constexpr tn_gemm_fp8 kFp8 = ops::fp8_table<Backend>();

const void* device_extension(const char* id) {
  if (std::string_view(id) == TN_EXT_GEMM8) return onednn::gemm8_table();
  if (std::string_view(id) == TN_EXT_GEMM_FP8) return &kFp8;
  return std::string_view(id) == TN_EXT_OPS ? &kOps : nullptr;
}

constexpr tn_device_api kApi = {TN_SIZE_TO(tn_device_api, get_extension),
                                0,
                                count,
                                open,
                                close,
                                onednn::info,
                                onednn::allocate,
                                onednn::release,
                                onednn::copy,
                                onednn::fill,
                                stream_create,
                                stream_destroy,
                                stream_wait,
                                event_create,
                                event_destroy,
                                event_record,
                                stream_wait_event,
                                event_seconds,
                                gemm_workspace,
                                gemm,
                                pack_bytes,
                                pack,
                                device_extension};

const tn_device_api* Backend::api() { return &kApi; }

constexpr tn_plugin kPlugin = {TN_SIZE_TO(tn_plugin, get_extension),
                               TN_KIND_DEVICE,
                               0,
                               9,
                               "onednn",
                               "0.9.0",
                               "onednn",
                               nullptr,
                               0,
                               sdk::no_init,
                               sdk::no_deinit,
                               &kApi,
                               sdk::no_extension};

}  // namespace

TENON_PLUGIN(kPlugin)
