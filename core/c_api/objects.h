// What the opaque types of tenon.h are.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/catalog/catalog.h"
#include "core/device/device.h"
#include "core/memory/memory.h"
#include "tenon/tenon.h"

namespace tenon::c_api {

// A dense tensor in accounted memory. Its tn_tensor points into it, so it stays where it is.
struct OwnedTensor {
  Block block;
  int64_t shape[4] = {}, strides[4] = {};
  tn_tensor tensor{};
  uint64_t bytes = 0;
};

// Zeroed. Throws TN_E_ARGUMENT for shapes and dtypes that make no tensor.
std::unique_ptr<OwnedTensor> make_tensor(tn_session& session, Category category, const tn_dtype& dtype, int32_t ndim,
                                         const int64_t* shape);

// Bytes of a dense tensor; throws where shape or dtype make none, or where it is not dense row-major. `name` begins the
// error.
uint64_t dense_bytes(const tn_tensor& tensor, const char* name);

// Runs `call` with a workspace of so many bytes.
template <class F>
void with_workspace(tn_session& session, uint64_t bytes, F&& call);

tn_exec plain_exec(tn_session& session);

}  // namespace tenon::c_api

struct tn_context {
  std::vector<std::string> stores;
  std::optional<tenon::Catalog> catalog;
};

struct tn_session {
  tenon::Catalog& catalog;
  tenon::Device device;
  std::vector<std::string> passed_over;
  tenon::Memory memory;
  std::map<tn_tensor*, std::unique_ptr<tenon::c_api::OwnedTensor>> tensors{};
  // After the memory: work ends before its memory goes.
  tenon::Stream stream{device};
};

struct tn_coded {
  tn_technique& technique;
  tn_target target;
  std::string name;
  struct Component {
    tn_component info;
    std::string name;
    std::unique_ptr<tenon::c_api::OwnedTensor> tensor;
  };
  std::list<Component> components{};  // addresses stay
  std::vector<tn_tensor*> tensors{};
};

struct tn_technique {
  tn_session& session;
  tenon::LoadedPlugin plugin;
  tenon::Spec spec;
  void* instance = nullptr;

  // Of a bound optimizer.
  struct Slot {
    tn_state_slot info;
    std::string name;
    std::unique_ptr<tenon::c_api::OwnedTensor> tensor;
  };
  struct Param {
    tn_param info;
    std::list<Slot> slots{};
    std::vector<tn_tensor*> states{};
    int64_t updates = 0;
    uint64_t workspace = 0;
  };
  std::vector<Param> params{};
  bool bound = false;
  int64_t steps = 0;
  // Of an attention.
  tn_attention_config attention{};

  ~tn_technique();
};

namespace tenon::c_api {

template <class F>
void with_workspace(tn_session& session, uint64_t bytes, F&& call) {
  const Block block = session.memory.allocate(Category::kWorkspace, bytes);
  tn_exec exec = plain_exec(session);
  exec.workspace = block.data();
  exec.workspace_bytes = block.bytes();
  call(exec);
}

// The table of the technique's kind; throws where it is of another.
template <class Api>
const Api& table(const tn_technique& technique) {
  return technique.plugin.api<Api>();
}

}  // namespace tenon::c_api
