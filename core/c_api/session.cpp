// Sessions: an opened device, its stream, and tensors in accounted memory.
#include <nlohmann/json.hpp>

#include "core/c_api/borrowed.h"
#include "core/c_api/guard.h"
#include "core/c_api/objects.h"
#include "core/error.h"
#include "core/plugins/host.h"

using namespace tenon;
using c_api::guard;
using c_api::need;
using c_api::OwnedTensor;

namespace tenon::c_api {
namespace {

// Bytes of a dense tensor of this shape, where that is a number.
uint64_t shape_bytes(const tn_dtype& dtype, int32_t ndim, const int64_t* shape, const char* name) {
  const auto refuse = [&](const std::string& why) { throw Error(TN_E_ARGUMENT, std::string(name) + ": " + why); };
  if (ndim < 0 || ndim > 4) refuse("a tensor has 0 to 4 dimensions, not " + std::to_string(ndim));
  if (dtype.lanes != 1 || (dtype.bits != 8 && dtype.bits != 16 && dtype.bits != 32 && dtype.bits != 64)) {
    refuse("elements have 8, 16, 32 or 64 bits and one lane, not " + std::to_string(dtype.bits) + " bits and " +
           std::to_string(dtype.lanes) + " lanes");
  }
  uint64_t bytes = dtype.bits / 8;
  for (int32_t i = 0; i < ndim; ++i) {
    if (shape[i] < 0 || __builtin_mul_overflow(bytes, static_cast<uint64_t>(shape[i]), &bytes) || bytes > INT64_MAX) {
      refuse("dimension " + std::to_string(i) + " of " + std::to_string(shape[i]) + " makes no tensor");
    }
  }
  return bytes;
}

}  // namespace

std::unique_ptr<OwnedTensor> make_tensor(tn_session& session, Category category, const tn_dtype& dtype, int32_t ndim,
                                         const int64_t* shape) {
  auto owned = std::make_unique<OwnedTensor>();
  owned->bytes = shape_bytes(dtype, ndim, shape, "the new tensor");
  owned->block = session.memory.allocate(category, owned->bytes);
  int64_t stride = 1;
  for (int32_t i = ndim - 1; i >= 0; --i) owned->shape[i] = shape[i], owned->strides[i] = stride, stride *= shape[i];
  owned->tensor = {owned->block.data(), session.device.id(), ndim, dtype, owned->shape, owned->strides, 0};
  if (owned->bytes > 0) {
    check(session.device.api().fill(session.device.handle(), session.stream.handle(), owned->block.data(), 0,
                                    owned->bytes),
          "clearing a new tensor");
  }
  return owned;
}

uint64_t dense_bytes(const tn_tensor& tensor, const char* name) {
  const uint64_t bytes = shape_bytes(tensor.dtype, tensor.ndim, tensor.shape, name);
  int64_t stride = 1;
  for (int32_t i = tensor.ndim - 1; i >= 0; --i) {
    if (!tensor.strides || (tensor.shape[i] > 1 && tensor.strides[i] != stride)) {
      throw Error(TN_E_ARGUMENT, std::string(name) + ": the tensor is not dense row-major; copy it into one that is");
    }
    stride *= tensor.shape[i];
  }
  return bytes;
}

tn_exec plain_exec(tn_session& session) {
  return {TN_SIZE_TO(tn_exec, workspace_bytes),
          0,
          &session.device.api(),
          session.device.handle(),
          session.stream.handle(),
          nullptr,
          0};
}

}  // namespace tenon::c_api

int32_t tn_session_open(tn_context* context, const char* device, uint64_t memory_limit, tn_session** out) {
  return guard([&] {
    need(context, "context");
    need(device, "device");
    need(out, "out");
    if (!context->catalog) context->catalog.emplace(context->stores);
    std::vector<std::string> passed_over;
    const Device opened = Device::open(*context->catalog, device, &passed_over);
    *out = new tn_session{*context->catalog, opened, std::move(passed_over),
                          Memory(&opened.api(), opened.handle(), memory_limit)};
  });
}

void tn_session_close(tn_session* session) {
  if (!session) return;
  session->device.api().stream_wait(session->device.handle(), session->stream.handle());
  delete session;
}

int32_t tn_session_info(tn_session* session, char** json) {
  return guard([&] {
    need(session, "session");
    need(json, "json");
    const tn_device_info info = session->device.info();
    const MemoryUse use = session->memory.use();
    Json categories;
    for (int i = 0; i < kCategories; ++i)
      categories[category_name(static_cast<Category>(i))] = {{"live", use.live[i]}, {"peak", use.peak[i]}};
    const Json answer = {{"backend", session->device.backend()},
                         {"name", info.name},
                         {"arch", info.arch},
                         {"runtime", info.runtime},
                         {"total_bytes", info.total_bytes},
                         {"free_bytes", info.free_bytes},
                         {"live_bytes", use.total_live},
                         {"peak_bytes", use.total_peak},
                         {"categories", categories},
                         {"passed_over", session->passed_over}};
    *json = c_api::copy_text(answer.dump(-1, ' ', false, Json::error_handler_t::replace));
  });
}

int32_t tn_session_exec(tn_session* session, tn_exec* out) {
  return guard([&] {
    need(session, "session");
    need(out, "out");
    *out = c_api::plain_exec(*session);
  });
}

int32_t tn_session_wait(tn_session* session) {
  return guard([&] {
    need(session, "session");
    session->stream.wait();
  });
}

int32_t tn_tensor_alloc(tn_session* session, uint32_t category, const tn_dtype* dtype, int32_t ndim,
                        const int64_t* shape, tn_tensor** out) {
  return guard([&] {
    need(session, "session");
    need(dtype, "dtype");
    need(out, "out");
    if (ndim > 0) need(shape, "shape");
    if (category < TN_MEMORY_WEIGHTS || category > TN_MEMORY_CODEC) {
      throw Error(TN_E_ARGUMENT,
                  "the memory category " + std::to_string(category) + " is unknown; use one of TN_MEMORY_*");
    }
    auto owned = c_api::make_tensor(*session, static_cast<Category>(category - 1), *dtype, ndim, shape);
    tn_tensor* const tensor = &owned->tensor;
    session->tensors.emplace(tensor, std::move(owned));
    *out = tensor;
  });
}

void tn_tensor_free(tn_session* session, tn_tensor* tensor) {
  if (session) session->tensors.erase(tensor);
}

namespace {

void copy_tensor(tn_session* session, const tn_tensor* tensor, void* to, const void* from, uint64_t n_bytes,
                 uint32_t direction) {
  c_api::check_borrowed(*session, *tensor, "the tensor",
                        direction == TN_COPY_TO_DEVICE ? c_api::Access::kWrite : c_api::Access::kRead);
  if (const uint64_t bytes = c_api::dense_bytes(*tensor, "the tensor"); bytes != n_bytes) {
    throw Error(TN_E_ARGUMENT, "the tensor has " + std::to_string(bytes) + " bytes but " + std::to_string(n_bytes) +
                                   " were given; copy the whole tensor");
  }
  if (n_bytes == 0) return;
  check(session->device.api().copy(session->device.handle(), session->stream.handle(), to, from, n_bytes, direction),
        "copying a tensor");
  session->stream.wait();
}

char* data_of(const tn_tensor* tensor) {
  return static_cast<char*>(tensor->data) + tensor->byte_offset;
}

}  // namespace

int32_t tn_tensor_write(tn_session* session, tn_tensor* tensor, const void* bytes, uint64_t n_bytes) {
  return guard([&] {
    need(session, "session");
    need(tensor, "tensor");
    need(bytes, "bytes");
    copy_tensor(session, tensor, data_of(tensor), bytes, n_bytes, TN_COPY_TO_DEVICE);
  });
}

int32_t tn_tensor_read(tn_session* session, const tn_tensor* tensor, void* bytes, uint64_t n_bytes) {
  return guard([&] {
    need(session, "session");
    need(tensor, "tensor");
    need(bytes, "bytes");
    copy_tensor(session, tensor, bytes, data_of(tensor), n_bytes, TN_COPY_TO_HOST);
  });
}
