// A GPU as a device: one source for CUDA, HIP and the emulation.
#include "devices/gpu/device.h"
#include "devices/ops/gemm_fp8.h"
#include "devices/ops/table.h"
#include "sdk/plugin.h"
#include "tenon/host_memory.h"

namespace {

using namespace tenon;
using gpu::on;
using sdk::gpu::ignore;
using sdk::gpu::require;

struct Backend {
  static constexpr bool kHostReadable = false;
  static const tn_host* host(tn_device* device) { return device->host; }
  static const tn_device_api* api();
  static bool codes_as_bf16() { return true; }
  static constexpr auto fp8_workspace = gpu::fp8_workspace;
  static constexpr auto fp8_product = gpu::fp8_product;
  static tn_exec exec(tn_device* device, tn_stream* stream) {
    require(gpu::set_device(device->index), "choosing the device");
    return {sizeof(tn_exec), 0, nullptr, device, stream, device->scratch, ops::kScratchBytes};
  }
};

// How many cards there are; 0, with the reason reported, where driver or card is missing.
int32_t count(const tn_host* host, uint32_t* n) {
  *n = 0;
  int found = 0;
  const gpu::Status s = gpu::device_count(&found);
  if (s != gpu::kSuccess || found == 0) {
    (void)sdk::gpu::last_error();
    const std::string said = s == gpu::kSuccess ? "the driver shows none" : sdk::gpu::message(s);
    host->error(host, TN_E_DEVICE, (TN_GPU_VENDOR " finds no card that it can use: " + said).c_str());
    return TN_OK;
  }
  *n = static_cast<uint32_t>(found);
  return TN_OK;
}

int32_t open(const tn_host* host, uint32_t index, tn_device** out) {
  return sdk::guard(host, [&] {
    auto device = std::make_unique<tn_device>();
    device->host = host, device->index = static_cast<int>(index);
    require(gpu::set_device(device->index), "choosing the device");
    require(gpu::properties(device->index, &device->properties), "asking for the device's properties");
    if (!device->properties.capable)
      sdk::fail(TN_E_DEVICE, device->properties.name + " is " + device->properties.arch + ", but " + gpu::kNeeds + "; use --device onednn or another card");
    device->blas = gpu::open_blas(device->without_blas);
    require(gpu::allocate(&device->scratch, ops::kScratchBytes, false), "allocating scratch memory");
    *out = device.release();
  });
}
void close(tn_device* device) {
  ignore(gpu::set_device(device->index));
  ignore(gpu::synchronize());
  ignore(gpu::release(device->scratch, false));
  delete device;
}

template <size_t N>
void put(char (&to)[N], const std::string& text) {
  std::snprintf(to, N, "%s", text.c_str());
}

int32_t info(tn_device* device, uint32_t measure, tn_device_info* out) {
  return on(device, [&] {
    if (measure) gpu::measure(device);
    tn_device_info d{};
    d.struct_size = TN_SIZE_TO(tn_device_info, bytes_per_second);
    d.n_threads = static_cast<uint32_t>(device->properties.multiprocessors);
    d.id = {gpu::kDeviceType, device->index};
    put(d.name, device->properties.name);
    put(d.arch, device->properties.arch);
    put(d.runtime, gpu::versions() + ", " + (device->blas ? device->blas->version() : "built-in products: " + device->without_blas));
    size_t free = 0, total = 0;
    require(gpu::memory_info(&free, &total), "asking for free memory");
    d.total_bytes = total, d.free_bytes = free;
    d.gemm_dtype = device->gemm_dtype.bits ? device->gemm_dtype : sdk::kBF16;
    d.gemm_flops = device->gemm_flops, d.bytes_per_second = device->bytes_per_second;
    std::memcpy(out, &d, std::min(out->struct_size ? out->struct_size : d.struct_size, d.struct_size));
  });
}

int32_t allocate(tn_device* device, uint64_t n_bytes, void** out) {
  return on(device, [&] {
    if (n_bytes == 0 || !out) sdk::fail(TN_E_ARGUMENT, "an allocation needs at least one byte and a place for its address");
    *out = nullptr;
    const bool pooled = device->properties.pools;
    gpu::Status s = gpu::allocate(out, n_bytes, pooled);
    if (s == sdk::gpu::kOutOfMemory && pooled) {
      (void)sdk::gpu::last_error();
      ignore(gpu::reclaim(device->index));
      s = gpu::allocate(out, n_bytes, pooled);
    }
    if (s == gpu::kSuccess) return;
    (void)sdk::gpu::last_error();
    if (s != sdk::gpu::kOutOfMemory) require(s, "an allocation");
    size_t free = 0, total = 0;
    ignore(gpu::memory_info(&free, &total));
    sdk::fail(TN_E_MEMORY, device->properties.name + " cannot allocate " + std::to_string(n_bytes) + " bytes: " + std::to_string(free) + " of " +
                               std::to_string(total) + " bytes are free; use a smaller batch, a shorter sequence or a more thrifty mix");
  });
}
void release(tn_device* device, void* memory) {
  if (!memory) return;
  ignore(gpu::set_device(device->index));
  ignore(gpu::release(memory, device->properties.pools));
}
int32_t host_allocate(tn_device* device, uint64_t n_bytes, void** out) {
  return on(device, [&] {
    if (n_bytes == 0 || !out) sdk::fail(TN_E_ARGUMENT, "an allocation needs at least one byte and a place for its address");
    *out = nullptr;
    const gpu::Status s = gpu::host_allocate(out, n_bytes);
    if (s == gpu::kSuccess) return;
    (void)sdk::gpu::last_error();
    if (s != sdk::gpu::kOutOfMemory) require(s, "an allocation on the host");
    sdk::fail(TN_E_MEMORY, "the system locks no further " + std::to_string(n_bytes) + " bytes of host memory; offload less, or raise its limit of locked memory");
  });
}
void host_release(tn_device* device, void* memory) {
  if (!memory) return;
  ignore(gpu::set_device(device->index));
  ignore(gpu::host_release(memory));
}
int32_t copy(tn_device* device, tn_stream* stream, void* to, const void* from, uint64_t n_bytes, uint32_t direction) {
  return on(device, [&] {
    if (direction < TN_COPY_TO_DEVICE || direction > TN_COPY_WITHIN)
      sdk::fail(TN_E_ARGUMENT, "copy direction " + std::to_string(direction) + " is unknown");
    if (!n_bytes) return;
    require(gpu::copy(to, from, n_bytes, direction, gpu::stream_of(stream)), "a copy");
    if (direction == TN_COPY_TO_DEVICE && gpu::reads_later(device->index, from)) require(gpu::stream_wait(gpu::stream_of(stream)), "a copy");
  });
}
int32_t fill(tn_device* device, tn_stream* stream, void* to, uint8_t byte, uint64_t n_bytes) {
  return on(device, [&] {
    if (n_bytes) require(gpu::fill(to, byte, n_bytes, gpu::stream_of(stream)), "filling memory");
  });
}

int32_t stream_create(tn_device* device, tn_stream** out) {
  return on(device, [&] {
    gpu::Stream s{};
    require(gpu::stream_create(&s), "creating a stream");
    *out = reinterpret_cast<tn_stream*>(s);
  });
}
void stream_destroy(tn_device* device, tn_stream* stream) {
  ignore(gpu::set_device(device->index));
  ignore(gpu::stream_destroy(gpu::stream_of(stream)));
}
int32_t stream_wait(tn_device* device, tn_stream* stream) {
  return on(device, [&] { require(gpu::stream_wait(gpu::stream_of(stream)), "the work on a stream"); });
}
int32_t event_create(tn_device* device, tn_event** out) {
  return on(device, [&] {
    gpu::Event e{};
    require(gpu::event_create(&e), "creating an event");
    *out = reinterpret_cast<tn_event*>(e);
  });
}
void event_destroy(tn_device* device, tn_event* event) {
  ignore(gpu::set_device(device->index));
  ignore(gpu::event_destroy(gpu::event_of(event)));
}
int32_t event_record(tn_device* device, tn_event* event, tn_stream* stream) {
  return on(device, [&] { require(gpu::event_record(gpu::event_of(event), gpu::stream_of(stream)), "recording an event"); });
}
int32_t stream_wait_event(tn_device* device, tn_stream* stream, tn_event* event) {
  return on(device, [&] { require(gpu::stream_wait_event(gpu::stream_of(stream), gpu::event_of(event)), "waiting for an event"); });
}
int32_t event_seconds(tn_device* device, tn_event* begin, tn_event* end, double* seconds) {
  return on(device, [&] { require(gpu::event_seconds(gpu::event_of(begin), gpu::event_of(end), seconds), "reading a time"); });
}

int32_t gemm_workspace(tn_device* device, const tn_gemm* gemm, uint64_t* n_bytes) {
  return on(device, [&] { *n_bytes = gpu::gemm_workspace(device, *gemm); });
}
int32_t gemm(tn_device* device, tn_stream* stream, const tn_gemm* gemm, void* workspace, uint64_t workspace_bytes) {
  return on(device, [&] { gpu::gemm(device, stream, *gemm, workspace, workspace_bytes); });
}
// No layout is better than the plain one.
int32_t pack_bytes(tn_device*, const tn_gemm*, uint64_t* n_bytes) {
  *n_bytes = 0;
  return TN_OK;
}
int32_t pack(tn_device* device, tn_stream*, const tn_gemm*, void*) {
  return sdk::guard(device->host, [] { sdk::fail(TN_E_UNSUPPORTED, "gemm: packing is not offered; pack_bytes answers 0"); });
}

constexpr tn_ops kOps = ops::ops_table<Backend>();
constexpr tn_gemm_fp8 kFp8 = ops::fp8_table<Backend>();
constexpr tn_host_memory kHostMemory = {sizeof(tn_host_memory), 0, host_allocate, host_release};
const void* device_extension(const char* id) {
  const std::string_view asked = id;
  if (asked == TN_EXT_GEMM8) return gpu::gemm8_table();
  if (asked == TN_EXT_GEMM_FP8) return &kFp8;
  return asked == TN_EXT_OPS ? static_cast<const void*>(&kOps) : asked == TN_EXT_HOST_MEMORY ? &kHostMemory : nullptr;
}

constexpr tn_device_api kApi = {TN_SIZE_TO(tn_device_api, get_extension),
                                0,
                                count,
                                open,
                                close,
                                info,
                                allocate,
                                release,
                                copy,
                                fill,
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

constexpr tn_plugin kPlugin = {TN_SIZE_TO(tn_plugin, get_extension), TN_KIND_DEVICE, 0, 9, gpu::kId, "0.9.0", gpu::kId, nullptr, 0, sdk::no_init,
                               sdk::no_deinit, &kApi, sdk::no_extension};

}  // namespace

TENON_PLUGIN(kPlugin)
