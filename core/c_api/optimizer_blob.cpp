// The states of an optimizer as one blob: "TNSTATE1", the length of a JSON header, the header, the plugin's own bytes,
// and the slots in the header's order.
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/c_api/guard.h"
#include "core/c_api/objects.h"
#include "core/error.h"
#include "core/files/json.h"
#include "core/plugins/host.h"

using namespace tenon;
using c_api::guard;
using c_api::need;
using c_api::table;

namespace {

constexpr std::string_view kMagic = "TNSTATE1";

// The names, types and shapes that a blob must agree on with the instance that loads it.
Json layout(const tn_technique& t) {
  Json params = Json::array();
  for (const auto& param : t.params) {
    Json slots = Json::array();
    for (const auto& slot : param.slots) {
      slots.push_back({{"name", slot.name},
                       {"dtype", {slot.info.dtype.code, slot.info.dtype.bits}},
                       {"shape", std::vector<int64_t>(slot.info.shape, slot.info.shape + slot.info.ndim)}});
    }
    params.push_back({{"uid", param.info.uid}, {"slots", slots}});
  }
  return params;
}

// The plugin's own small state; empty where it has none.
std::string own_state(tn_technique& t) {
  const tn_optimizer_api& api = table<tn_optimizer_api>(t);
  std::string bytes;
  if (!TN_HAS(&api, tn_optimizer_api, load) || !api.save) return bytes;
  const tn_sink sink = {TN_SIZE_TO(tn_sink, write), 0, &bytes, [](void* self, const void* data, uint64_t n) -> int32_t {
                          try {
                            static_cast<std::string*>(self)->append(static_cast<const char*>(data), n);
                            return TN_OK;
                          } catch (...) {
                            return TN_E_MEMORY;
                          }
                        }};
  check(api.save(static_cast<tn_optimizer*>(t.instance), &sink), t.spec.id + " cannot save its state");
  return bytes;
}

void put(const tn_sink& sink, const void* bytes, uint64_t n) {
  if (n > 0) check(sink.write(sink.self, bytes, n), "writing the optimizer's states");
}

class Reader {
 public:
  Reader(const void* bytes, uint64_t n) : at_(static_cast<const char*>(bytes)), left_(n) {}
  const char* take(uint64_t n) {
    if (n > left_)
      throw Error(TN_E_FORMAT, "the optimizer's states are cut off: " + std::to_string(n) +
                                   " more bytes are stated than the " + std::to_string(left_) + " left");
    const char* const here = at_;
    at_ += n;
    left_ -= n;
    return here;
  }
  uint64_t left() const { return left_; }

 private:
  const char* at_;
  uint64_t left_;
};

Json read_header(Reader& reader) {
  if (reader.left() < kMagic.size() || std::string_view(reader.take(kMagic.size()), kMagic.size()) != kMagic) {
    throw Error(TN_E_FORMAT, "these bytes are not the states of an optimizer; give what tn_optimizer_save wrote");
  }
  uint64_t length = 0;
  std::memcpy(&length, reader.take(sizeof length), sizeof length);
  return parse_json({reader.take(length), length}, "the header of the optimizer's states");
}

}  // namespace

int32_t tn_optimizer_save(tn_technique* optimizer, const tn_sink* sink) {
  return guard([&] {
    need(optimizer, "optimizer");
    need(sink, "sink");
    tn_technique& t = *optimizer;
    (void)table<tn_optimizer_api>(t);
    const std::string own = own_state(t);
    Json updates = Json::array();
    for (const auto& param : t.params) updates.push_back(param.updates);
    const Json header = {{"plugin", t.spec.id},       {"version", t.plugin.descriptor().version},
                         {"spec", canonical(t.spec)}, {"steps", t.steps},
                         {"updates", updates},        {"own_bytes", own.size()},
                         {"params", layout(t)}};
    const std::string text = header.dump();
    const uint64_t length = text.size();
    put(*sink, kMagic.data(), kMagic.size());
    put(*sink, &length, sizeof length);
    put(*sink, text.data(), text.size());
    put(*sink, own.data(), own.size());
    std::string piece;
    for (const auto& param : t.params) {
      for (const auto& slot : param.slots) {
        piece.resize(slot.tensor->bytes);
        if (piece.empty()) continue;
        check(tn_tensor_read(&t.session, &slot.tensor->tensor, piece.data(), piece.size()),
              "reading the state " + slot.name);
        put(*sink, piece.data(), piece.size());
      }
    }
  });
}

int32_t tn_optimizer_load(tn_technique* optimizer, const void* bytes, uint64_t n_bytes) {
  return guard([&] {
    need(optimizer, "optimizer");
    need(bytes, "bytes");
    tn_technique& t = *optimizer;
    const tn_optimizer_api& api = table<tn_optimizer_api>(t);
    const std::string what = "the header of the optimizer's states";
    Reader reader(bytes, n_bytes);
    const Json header = read_header(reader);
    if (const std::string id = get_string(header, "plugin", what); id != t.spec.id) {
      throw Error(TN_E_CONFLICT, "these are the states of " + id + ", not of " + t.spec.id +
                                     "; load them into the optimizer that wrote them");
    }
    if (get_array(header, "params", what) != layout(t)) {
      throw Error(TN_E_CONFLICT, "the states were written by " + get_string(header, "spec", what) +
                                     " for other parameters than those bound to " + canonical(t.spec) +
                                     "; bind the same parameters in the same order");
    }
    const int64_t steps = get_int(header, "steps", 0, INT64_MAX, what);
    const Json& updates = get_array(header, "updates", what);
    const auto own_bytes = static_cast<uint64_t>(get_int(header, "own_bytes", 0, INT64_MAX, what));
    uint64_t expected = own_bytes;
    if (__builtin_add_overflow(expected, tn_optimizer_state_bytes(optimizer), &expected) || expected != reader.left() ||
        updates.size() != t.params.size()) {
      throw Error(TN_E_FORMAT, "the optimizer's states have " + std::to_string(reader.left()) +
                                   " bytes after their header where " + std::to_string(expected) +
                                   " belong; the blob is damaged");
    }
    for (const Json& count : updates) {
      if (!count.is_number_integer()) throw Error(TN_E_FORMAT, what + ": a count of updates is not a number");
    }
    const char* const own = reader.take(own_bytes);
    const bool loads = TN_HAS(&api, tn_optimizer_api, load) && api.load;
    if (own_bytes > 0 && !loads)
      throw Error(TN_E_FORMAT, t.spec.id + " takes no state of its own but the blob has some; the blob is damaged");
    if (loads)
      check(api.load(static_cast<tn_optimizer*>(t.instance), own, own_bytes), t.spec.id + " cannot load its state");
    for (size_t i = 0; i < t.params.size(); ++i) {
      t.params[i].updates = updates[i].get<int64_t>();
      for (auto& slot : t.params[i].slots) {
        const char* const data = reader.take(slot.tensor->bytes);
        if (slot.tensor->bytes > 0)
          check(tn_tensor_write(&t.session, &slot.tensor->tensor, data, slot.tensor->bytes),
                "writing the state " + slot.name);
      }
    }
    t.steps = steps;
  });
}
