#include "core/device/device.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "core/error.h"
#include "core/files/bytes.h"
#include "core/plugins/host.h"

namespace tenon {

struct Device::State {
  LoadedPlugin plugin;
  std::string backend;
  tn_device* handle;
  tn_device_id id{};

  State(LoadedPlugin p, std::string b, tn_device* h) : plugin(std::move(p)), backend(std::move(b)), handle(h) {}
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { plugin.api<tn_device_api>().close(handle); }
};

namespace {

// "cuda:1" is the device 1 of cuda.
std::pair<std::string, uint32_t> cut_name(std::string_view name) {
  const size_t colon = name.find(':');
  if (colon == std::string_view::npos) return {std::string(name), 0};
  const std::string_view digits = name.substr(colon + 1);
  uint32_t index = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
  if (digits.empty() || error != std::errc() || end != digits.data() + digits.size()) {
    throw Error(TN_E_ARGUMENT,
                "the device " + quote_name(name) + " has no number after the colon; write it like cuda:1");
  }
  return {std::string(name.substr(0, colon)), index};
}

// The backend of a device plugin's object; its id where it has several or none.
std::string backend_of(const Catalog& catalog, const std::string& id) {
  for (const PluginRow& row : catalog.list({.kind = "device"}))
    if (row.id == id && row.backends.size() == 1) return row.backends[0];
  return id;
}

uint32_t count_devices(const LoadedPlugin& plugin) {
  uint32_t n = 0;
  (void)take_report();
  const int32_t status = plugin.api<tn_device_api>().count(host(), &n);
  const Report said = take_report();
  if (status >= 0 && n > 0) return n;
  const std::string id(plugin.id());
  throw Error(TN_E_DEVICE,
              "there is no device for " + id + " here" +
                  (said.sentence.empty() ? "; use --device auto" : " (" + said.sentence + "); use another device"));
}

}  // namespace

Device Device::open_one(const LoadedPlugin& plugin, std::string_view backend, uint32_t index) {
  const std::string id(plugin.id());
  if (const uint32_t n = count_devices(plugin); index >= n) {
    throw Error(TN_E_NOT_FOUND, id + ':' + std::to_string(index) + " does not exist; " + id + " has devices 0 to " +
                                    std::to_string(n - 1));
  }
  tn_device* handle = nullptr;
  check(plugin.api<tn_device_api>().open(host(), index, &handle),
        "the device " + id + ':' + std::to_string(index) + " cannot be opened");
  const auto state = std::make_shared<State>(plugin, std::string(backend), handle);
  const Device device(state);
  state->id = device.info().id;
  return device;
}

Device Device::open(const Catalog& catalog, std::string_view name, std::vector<std::string>* reasons) {
  if (name != "auto") {
    const auto [id, index] = cut_name(name);
    const std::string found = catalog.resolve(TN_KIND_DEVICE, id);
    const std::string backend = backend_of(catalog, found);
    return open_one(catalog.load(found, backend), backend, index);
  }
  std::vector<Device> cpus;
  std::vector<std::string> passed;
  const auto attempt = [&](const auto& body) {
    try {
      body();
    } catch (const Error& e) {
      if (e.code() == TN_E_TRUST) throw;
      passed.emplace_back(e.what());
    }
  };
  for (const PluginRow& row : catalog.list({.kind = "device"})) {
    std::optional<Device> card;  // the first that can be used: of several in a machine one may be too old, or full
    attempt([&] {
      const std::string backend = backend_of(catalog, row.id);
      const LoadedPlugin plugin = catalog.load(row.id, backend);
      const uint32_t n = count_devices(plugin);
      for (uint32_t i = 0; i < n && !card; ++i) attempt([&] { card = open_one(plugin, backend, i); });
    });
    if (!card) continue;
    if (card->id().type != TN_CPU) {
      if (reasons) *reasons = std::move(passed);
      return *std::move(card);
    }
    cpus.push_back(*std::move(card));
  }
  if (reasons) *reasons = passed;
  if (!cpus.empty()) return cpus[0];
  if (passed.empty())
    throw Error(TN_E_NOT_FOUND, "no device plugin is installed; install one with `tenon plugin install FOLDER`");
  throw Error(TN_E_DEVICE, "no device can be used: " + passed[0]);
}

const std::string& Device::backend() const {
  return state_->backend;
}
const LoadedPlugin& Device::plugin() const {
  return state_->plugin;
}
const tn_device_api& Device::api() const {
  return state_->plugin.api<tn_device_api>();
}
tn_device* Device::handle() const {
  return state_->handle;
}
tn_device_id Device::id() const {
  return state_->id;
}

tn_device_info Device::info(bool measure) const {
  tn_device_info info{};
  info.struct_size = TN_SIZE_TO(tn_device_info, bytes_per_second);
  check(api().info(handle(), measure, &info), "the device " + backend() + " cannot be described");
  return info;
}

const tn_ops* Device::ops() const {
  const tn_device_api& table = api();
  const bool asks = TN_HAS(&table, tn_device_api, get_extension) && table.get_extension;
  return asks ? static_cast<const tn_ops*>(table.get_extension(TN_EXT_OPS)) : nullptr;
}

Stream::Stream(const Device& device) : device_(device) {
  check(device_.api().stream_create(device_.handle(), &stream_),
        "a stream on " + device_.backend() + " cannot be made");
}

Stream::~Stream() {
  device_.api().stream_wait(device_.handle(), stream_);
  device_.api().stream_destroy(device_.handle(), stream_);
}

void Stream::wait() {
  check(device_.api().stream_wait(device_.handle(), stream_), "waiting for the device " + device_.backend());
}

}  // namespace tenon
