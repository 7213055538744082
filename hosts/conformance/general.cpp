// Checks that hold for every kind: negotiation, what is exported, schema, making instances, answers to `supports`.
#include <dlfcn.h>

#include <cstring>
#include <functional>
#include <mutex>
#include <thread>

#include "core/error.h"
#include "core/plugins/kinds.h"
#include "hosts/conformance/check.h"
#include "hosts/conformance/exports.h"
#include "sdk/dtype.h"

namespace tenon::conformance {
namespace {

tn_plugin_entry_fn entry_of(Subject& s) {
  void* const library = dlopen(s.object().c_str(), RTLD_NOW | RTLD_LOCAL);
  expect(library != nullptr, "the object cannot be opened a second time");
  return reinterpret_cast<tn_plugin_entry_fn>(dlsym(library, TN_PLUGIN_ENTRY_NAME));
}

std::string offered(uint32_t major, uint32_t minor) {
  return "offered ABI " + abi_text(major, minor) + ", the entry";
}

void refuses_version(tn_plugin_entry_fn entry, uint32_t major, uint32_t minor) {
  const tn_plugin* descriptor = nullptr;
  const int32_t status = entry(major, minor, host(), &descriptor);
  expect(status < 0, offered(major, minor) + " accepted a major version that it cannot know");
  expect(status == TN_E_VERSION,
         offered(major, minor) + " answered " + status_name(status) + " instead of TN_E_VERSION");
  (void)accepted(status, offered(major, minor));
}

void negotiation(Subject& s) {
  const auto entry = entry_of(s);
  for (const uint32_t major : {1u, 2u, UINT32_MAX})
    refuses_version(entry, major, 0), refuses_version(entry, major, UINT32_MAX);
  for (const uint32_t minor :
       {0u, 1u, uint32_t{TN_ABI_MINOR - 1}, uint32_t{TN_ABI_MINOR}, uint32_t{TN_ABI_MINOR + 1}, 1000u, UINT32_MAX}) {
    const tn_plugin* descriptor = nullptr;
    const int32_t status = entry(TN_ABI_MAJOR, minor, host(), &descriptor);
    if (!accepted(status, offered(TN_ABI_MAJOR, minor))) {
      expect(
          minor < s.plugin().descriptor().abi_minor,
          offered(TN_ABI_MAJOR, minor) + " refused a newer minor version; every newer minor of the same major must do");
      expect(status == TN_E_VERSION,
             offered(TN_ABI_MAJOR, minor) + " answered " + status_name(status) + " instead of TN_E_VERSION");
      continue;
    }
    expect(descriptor != nullptr, offered(TN_ABI_MAJOR, minor) + " accepted and gave no descriptor");
    expect(descriptor->abi_minor <= minor,
           offered(TN_ABI_MAJOR, minor) + " answered a newer minor version than it was offered");
  }
  const tn_plugin *first = nullptr, *second = nullptr;
  must(entry(TN_ABI_MAJOR, TN_ABI_MINOR, host(), &first), "negotiating");
  must(entry(TN_ABI_MAJOR, TN_ABI_MINOR, host(), &second), "negotiating again");
  expect(first == second, "two negotiations gave two descriptors; it must be one constant");
}

// The oldest host there can be: an error slot and nothing else. What lies behind it must not be read.
void smallest_host(Subject& s) {
  const auto entry = entry_of(s);
  static int reports;
  tn_host old;
  std::memset(&old, 0xFF, sizeof old);
  old.struct_size = TN_SIZE_TO(tn_host, error), old.reserved = 0;
  old.error = [](const tn_host*, int32_t, const char* sentence) { reports += sentence && *sentence; };
  const tn_plugin* descriptor = nullptr;
  expect(entry(TN_ABI_MAJOR + 1, 0, &old, &descriptor) == TN_E_VERSION,
         "a host of another major version was not refused with TN_E_VERSION");
  expect(reports == 1, "the refusal of another major version was not explained through the error slot");
  (void)entry(TN_ABI_MAJOR, TN_ABI_MINOR, &old, &descriptor);
}

void exports(Subject& s) {
  std::string others;
  bool found = false;
  for (const std::string& name : exported_symbols(s.object())) {
    if (name == TN_PLUGIN_ENTRY_NAME)
      found = true;
    else if (others.size() < 200)
      others += (others.empty() ? "" : ", ") + name;
  }
  expect(found, "the object does not export " TN_PLUGIN_ENTRY_NAME);
  expect(others.empty(),
         "the object exports more than " TN_PLUGIN_ENTRY_NAME ": " + others + "; link it with a version script");
}

void descriptor(Subject& s) {
  const tn_plugin& d = s.plugin().descriptor();
  check_descriptor("the descriptor", d);
  const uint32_t stated = *static_cast<const uint32_t*>(d.api);
  expect(stated % sizeof(void*) == 0 && stated < 4096,
         "the table of functions states a size of " + std::to_string(stated) + " bytes, which no table has");
  if (d.get_extension)
    expect(d.get_extension("org.tenon.no-such-extension/1") == nullptr,
           "get_extension answered for an extension that does not exist");
  for (const HyperInfo& h : s.plugin().schema())
    expect(!h.doc.empty(), "parameter " + h.name + " has no line of documentation");
  for (int i = 0; i < 3; ++i)
    if (d.init) must(d.init(host()), "initialising once more");
  for (int i = 0; i < 3; ++i)
    if (d.deinit) d.deinit();
}

// An instance of any technique: its handle, and its answers to `supports`.
struct Technique {
  const void* self;
  std::function<int32_t(const tn_query*)> supports;
};
using Use = std::function<void(const Technique&)>;

// Calls `use` with an instance of this spec; a refusal in words is fine and calls nothing.
template <class Api, class Handle, class... More>
void with_instance(Subject& s, const Spec& spec, const Use& use, More... more) {
  int32_t status = 0;
  const Api& api = s.api<Api>();
  const Instance<Api, Handle> instance(api, spec, status, more...);
  if (!accepted(status, "create")) return;
  expect(instance.get() != nullptr, "create succeeded but gave no instance");
  use({instance.get(), [&](const tn_query* query) { return api.supports(instance.get(), query); }});
}

void with_technique(Subject& s, const Spec& spec, const Use& use) {
  const tn_attention_config config = {TN_SIZE_TO(tn_attention_config, softcap), 4, 2, 32, 32, 0, 1, 0, 4, 0, 0.0, 0.0};
  switch (s.plugin().kind()) {
    case TN_KIND_OPTIMIZER:
      return with_instance<tn_optimizer_api, tn_optimizer>(s, spec, use);
    case TN_KIND_ADAPTER:
      return with_instance<tn_adapter_api, tn_adapter>(s, spec, use, static_cast<const char*>(nullptr));
    case TN_KIND_QUANTIZER:
      return with_instance<tn_quantizer_api, tn_quantizer>(s, spec, use);
    case TN_KIND_ATTENTION:
      return with_instance<tn_attention_api, tn_attention>(s, spec, use, &config);
    default:
      throw NotApplicable{"a device is opened, not made from parameters"};
  }
}

void create(Subject& s) {
  size_t made = 0;
  for (const auto& values : s.variants(true)) with_technique(s, s.spec(values), [&](const Technique&) { ++made; });
  expect(made > 0, "no instance could be made, not even with the defaults");
  for (const HyperInfo& h : s.plugin().schema()) {
    if (h.type != TN_TYPE_STRING) continue;
    for (const char* text : {"", "a+b", "\xC3\xBC \\ \" {", "(((((((((("})
      with_technique(s, s.spec({{h.name, text}}), [](const Technique&) {});
  }
  // Two at the same time.
  with_technique(s, s.spec(), [&](const Technique& a) {
    with_technique(s, s.spec(), [&](const Technique& b) { expect(a.self != b.self, "two instances are one"); });
  });
}

// Asks once as today's host and once as a newer one, whose tn_query is longer.
bool ask(const Technique& t, const tn_query& query) {
  struct {
    tn_query query;
    uint8_t poison[64];
  } longer;
  std::memset(&longer, 0xCC, sizeof longer);
  longer.query = query;
  const int32_t status = t.supports(&longer.query);
  const bool yes = accepted(status, "supports");
  expect(yes || status == TN_E_UNSUPPORTED || status == TN_E_ARGUMENT,
         std::string("supports answered ") + status_name(status) + "; a refusal is TN_E_UNSUPPORTED");
  longer.query.struct_size = sizeof longer;
  expect(accepted(t.supports(&longer.query), "supports") == yes,
         "supports answers another way when the host's tn_query is longer");
  return yes;
}

std::vector<tn_query> queries(tn_device_id device) {
  constexpr tn_dtype kStorage[] = {sdk::kF32, sdk::kBF16, sdk::kF16, sdk::kF64, sdk::kI32, sdk::kU8, {TN_OPAQUE, 4, 1}};
  constexpr tn_dtype kCompute[] = {sdk::kF32, sdk::kBF16, sdk::kF16, sdk::kF64};
  constexpr uint32_t kRoles[] = {TN_ROLE_UNDEFINED, TN_ROLE_EMBEDDING, TN_ROLE_NORM, TN_ROLE_Q, TN_ROLE_DOWN, 9999};
  struct Shape {
    int32_t ndim;
    int64_t m, n;
  };
  constexpr Shape kShapes[] = {{1, 7, 0}, {1, 4096, 0}, {2, 33, 130}, {2, 64, 256}, {2, 1, 1}, {2, 0, 5}, {3, 4, 8}};
  std::vector<tn_query> out;
  for (const tn_dtype storage : kStorage)
    for (const tn_dtype compute : kCompute)
      for (const uint32_t role : kRoles)
        for (const Shape& shape : kShapes)
          out.push_back({TN_SIZE_TO(tn_query, shape),
                         role,
                         device,
                         storage,
                         compute,
                         shape.ndim,
                         0,
                         {shape.m, shape.n, 4, 0}});
  return out;
}

void supports(Subject& s) {
  with_technique(s, s.spec(), [&](const Technique& t) {
    size_t yes = 0;
    for (const tn_query& query : queries(s.bench().id)) yes += ask(t, query);
    expect(yes > 0, "supports refuses every device, dtype and shape: " + take_report().sentence);
  });
}

// What is tagged [any-thread]: instances come and go on four threads, while all of them ask one instance.
void threads(Subject& s) {
  const std::vector<tn_query> questions = queries(s.bench().id);
  with_technique(s, s.spec(), [&](const Technique& shared) {
    std::vector<bool> alone;
    for (const tn_query& query : questions) alone.push_back(ask(shared, query));
    std::mutex mutex;
    std::string finding;
    const auto work = [&] {
      try {
        for (int round = 0; round < 8; ++round)
          with_technique(s, s.spec(), [&](const Technique& own) {
            for (size_t i = 0; i < questions.size(); ++i)
              expect(ask(shared, questions[i]) == alone[i] && ask(own, questions[i]) == alone[i],
                     "supports answers otherwise than alone");
          });
      } catch (const Failed& f) {
        const auto lock = std::lock_guard(mutex);
        finding = "while several threads ask, against [any-thread]: " + f.sentence;
      }
    };
    {
      std::vector<std::jthread> running;
      for (int i = 0; i < 4; ++i) running.emplace_back(work);
    }
    expect(finding.empty(), finding);
  });
}

constexpr Check kChecks[] = {
    {"negotiation", "older, newer and foreign hosts are answered or refused in words", negotiation},
    {"smallest host", "only the error slot of the host is used before and during a refusal", smallest_host},
    {"exports", "exactly one symbol leaves the object", exports},
    {"descriptor", "descriptor, table and schema are sound; init and deinit pair", descriptor},
    {"create", "instances come and go with the defaults and at every bound of the schema", create},
    {"supports", "every dtype and shape is accepted or refused with a sentence", supports},
    {"threads", "what is tagged [any-thread] may be called by several threads at once", threads},
};

}  // namespace

std::span<const Check> general_checks() {
  return kChecks;
}

}  // namespace tenon::conformance
