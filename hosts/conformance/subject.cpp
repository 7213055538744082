#include "hosts/conformance/subject.h"

#include <charconv>
#include <cmath>

#include "core/error.h"
#include "core/plugins/host.h"
#include "hosts/conformance/check.h"

namespace tenon::conformance {
namespace {

std::unique_ptr<Bench> open_bench(const LoadedPlugin& plugin) {
  const auto& api = plugin.api<tn_device_api>();
  uint32_t n = 0;
  must(api.count(host(), &n), "counting devices");
  if (n == 0) throw NoDevice{"there is no such device here (" + take_report().sentence + ")"};
  auto bench = std::make_unique<Bench>();
  bench->api = bench->host = &api;
  must(api.open(host(), 0, &bench->device), "opening the device");
  must(api.stream_create(bench->device, &bench->stream), "making a stream");
  tn_device_info info{};
  info.struct_size = TN_SIZE_TO(tn_device_info, bytes_per_second);
  must(api.info(bench->device, 0, &info), "asking the device");
  bench->id = info.id;
  return bench;
}

std::string number(double x) {
  char text[32];
  const auto [end, error] = std::to_chars(text, text + sizeof text, x);
  return std::string(text, end);
}

// The legal numbers nearest to the bounds of a parameter.
std::vector<std::string> bounds(const HyperInfo& h) {
  std::vector<std::string> out;
  const bool whole = h.type == TN_TYPE_INT;
  const auto text = [&](double x) {
    return whole && std::fabs(x) < 9e15 ? std::to_string(static_cast<int64_t>(x)) : number(x);
  };
  if (std::isfinite(h.min))
    out.push_back(text(!(h.flags & TN_RANGE_OPEN_MIN) ? h.min
                       : whole                        ? h.min + 1
                                                      : h.min + 1e-6 * std::max(1.0, std::fabs(h.min))));
  if (std::isfinite(h.max) && std::fabs(h.max) < 9e15)
    out.push_back(text(!(h.flags & TN_RANGE_OPEN_MAX) ? h.max
                       : whole                        ? h.max - 1
                                                      : h.max - 1e-6 * std::max(1.0, std::fabs(h.max))));
  return out;
}

}  // namespace

Subject::Subject(const Target& target) : plugin_(load_library(target.object)), device_object_(target.device_object) {}

Subject::~Subject() {
  if (!bench_) return;
  bench_->api->stream_destroy(bench_->device, bench_->stream);
  bench_->api->close(bench_->device);
}

Bench& Subject::bench() {
  if (!bench_) {
    if (plugin_.kind() != TN_KIND_DEVICE && device_object_.empty())
      failed("no device plugin is installed for this technique to run on; install one first");
    if (plugin_.kind() != TN_KIND_DEVICE) device_plugin_ = std::make_unique<LoadedPlugin>(load_library(device_object_));
    bench_ = open_bench(device_plugin_ ? *device_plugin_ : plugin_);
    if (device_plugin_) bench_->lend();
  }
  return *bench_;
}

Spec Subject::spec(const std::map<std::string, std::string>& values) const {
  SpecText text{std::string(plugin_.id()), {}};
  for (const auto& [key, value] : values) text.items.push_back({key, value});
  return resolve_spec(text, plugin_.schema());
}

std::vector<std::map<std::string, std::string>> Subject::variants(bool numbers) const {
  std::vector<std::map<std::string, std::string>> out{{}};
  for (const HyperInfo& h : plugin_.schema()) {
    std::vector<std::string> values;
    if (h.type == TN_TYPE_BOOL) values = {"true", "false"};
    if (h.type == TN_TYPE_CHOICE) values = h.choices;
    if (numbers && (h.type == TN_TYPE_INT || h.type == TN_TYPE_FLOAT)) values = bounds(h);
    for (const std::string& value : values)
      if (value != h.default_value) out.push_back({{h.name, value}});
  }
  return out;
}

std::vector<std::map<std::string, std::string>> Subject::variants_and_dropout() const {
  auto out = variants(false);
  for (const HyperInfo& h : plugin_.schema())
    if (h.type == TN_TYPE_FLOAT && h.name.find("dropout") != std::string::npos) out.push_back({{h.name, "0.3"}});
  return out;
}

std::string words(const std::map<std::string, std::string>& values) {
  std::string out;
  for (const auto& [key, value] : values) out += (out.empty() ? "" : ", ") + key + "=" + value;
  return out.empty() ? "the defaults" : out;
}

}  // namespace tenon::conformance
