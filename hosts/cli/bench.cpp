// tenon bench: measure this machine and the parts of a training step.
#include <malloc.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"
#include "core/files/json.h"
#include "core/plugins/nearest.h"
#include "hosts/bench/bench.h"
#include "hosts/bench/profile.h"
#include "hosts/cli/command.h"
#include "hosts/cli/output.h"
#include "hosts/cli/run_self.h"
#include "hosts/cli/train_flags.h"
#include "hosts/trainer/run/features.h"
#include "hosts/trainer/run/inference.h"
#include "hosts/trainer/run/plan.h"

namespace tenon::cli {
namespace {

using bench::Figures;

// A line of /proc/self/status in bytes; 0 where there is none.
double status_bytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(key + ":")) return 1024 * std::strtod(line.c_str() + key.size() + 1, nullptr);
  return 0;
}

// From here on VmHWM is the peak of what follows.
void reset_resident_peak() {
  malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";
}

struct StepReport {
  Figures figures;
  std::vector<bench::ProfileRow> profile;
  bench::Speeds speeds;
};

// Parameters that take part in a product with every token: all but the rows that an untied embedding looks up.
double multiplied_parameters(const trainer::ModelConfig& c) {
  return static_cast<double>(c.parameters()) -
         (c.tied ? 0.0 : static_cast<double>(c.vocab) * static_cast<double>(c.hidden));
}

StepReport step(const Catalog& catalog, const po::variables_map& values, const bench::Setting& setting) {
  trainer::MixRequest request = mix_request(catalog, values, true);
  trainer::TrainOptions o = train_options(values, request);
  trainer::Runtime runtime(catalog, request);
  settle_defaults(o, runtime);
  const trainer::ModelSource source = open_model(values);
  const MemoryUse planned =
      trainer::plan_run(runtime, source, o.session, {o.batch, o.session.sequence, false}, o.compute);

  const auto engine = runtime.engine(o.compute, o.memory_limit, false);
  const auto set = runtime.instantiate();
  trainer::Session session(*engine, source, set->techniques, o.session);
  reset_resident_peak();
  const trainer::HostBatch batch = trainer::shape_batch(o.batch, o.session.sequence, source.config().vocab);
  const std::vector<trainer::HostBatch> batches(static_cast<size_t>(o.session.accumulate), batch);
  std::vector<double> seconds;
  int64_t number = 0, tokens = 0;
  const auto one = [&] {
    tokens = o.batch * o.session.sequence * o.session.accumulate;
    const double begin = bench::now();
    (void)session.step(++number, 1000000, batches, 1e-6);
    engine->synchronize();
    return bench::now() - begin;
  };
  // The limit that a step is held against, in its own type, measured in turn with the steps so that other load falls on
  // both.
  const trainer::Tensor a = engine->empty(Category::kWorkspace, o.compute, {1024, 1024}),
                        b = engine->empty(Category::kWorkspace, o.compute, {1024, 1024}),
                        c = engine->empty(Category::kWorkspace, o.compute, {1024, 1024});
  engine->fill_normal(a, 1, {1, 1, 0});
  engine->fill_normal(b, 1, {1, 2, 0});
  std::vector<double> products;
  const auto product = [&] {
    const double begin = bench::now();
    engine->gemm(a, b, c);
    engine->synchronize();
    return bench::now() - begin;
  };
  one();
  const double accounted =
      static_cast<double>(engine->memory().use().total_peak - static_cast<uint64_t>(a.bytes() + b.bytes() + c.bytes()));
  product();
  for (int i = 0; i < setting.repeat; ++i) {
    seconds.push_back(one());
    for (int k = 0; k < 5; ++k) products.push_back(product());
  }
  const double resident = status_bytes("VmHWM");
  const double median = bench::median(seconds), rate = static_cast<double>(tokens) / median;
  const double gemm = 2.0 * 1024 * 1024 * 1024 / bench::median(products);

  StepReport report;
  if (values.count("profile")) {
    report.speeds = {bench::memory_speed(*engine, setting.repeat), gemm};
    engine->set_profiling(true);
    const double profiled = one() + one();
    engine->set_profiling(false);
    report.profile = bench::profile_rows(*engine, 2, profiled, report.speeds);
  }
  // Forward and the gradient of the activations take 2 operations each; where weights train, theirs take 2 more.
  const double each = set->techniques.adapters.empty() ? 6 : 4,
               operations = each * multiplied_parameters(source.config()) * rate;
  report.figures = {{"tokens_per_second", rate},
                    {"step_seconds", median},
                    {"operations_per_parameter", each},
                    {"step_gigaflops", operations / 1e9},
                    {"gemm_gigaflops", gemm / 1e9},
                    {"share_of_gemm", operations / gemm},
                    {"planned_bytes", static_cast<double>(planned.total_peak)},
                    {"accounted_bytes", accounted},
                    {"peak_bytes", resident}};
  return report;
}

// Standard output of this very program with these arguments.
std::string answer_of(const std::vector<std::string>& arguments) {
  const SelfRun run = run_self(arguments);
  if (run.status != 0)
    throw Error(TN_E_INTERNAL, "a measurement in a process of its own failed; its reason stands above");
  return run.output;
}

// LoRA and QLoRA of r = 16 on all linears over 4 windows of 256, as the peers take them. Each variant is a process of
// its own, so that its peak memory is its own; the variants take turns.
Figures lora_step(const po::variables_map& values, const bench::Setting& setting) {
  const std::string model = required(values, "model");
  const int turns = setting.quick ? 1 : 3;
  std::map<std::string, std::vector<double>> speed, peak;
  std::vector<std::string> order;
  for (int turn = 0; turn < turns; ++turn)
    for (const char* quantizer : {"", "nf4:double_quant=true"})
      for (const char* dtype : {"f32", "bf16"}) {
        const std::string name = std::string(*quantizer ? "qlora_" : "lora_") + dtype;
        std::vector<std::string> arguments{"bench",
                                           "step",
                                           "--json",
                                           "--model",
                                           model,
                                           "--adapter",
                                           "lora:r=16,lora_alpha=16,target_modules=all-linear",
                                           "--dtype",
                                           dtype,
                                           "--seq-len",
                                           setting.quick ? "32" : "256",
                                           "--batch-size",
                                           setting.quick ? "1" : "4",
                                           "--repeat",
                                           std::to_string(std::max(1, setting.repeat / 2)),
                                           "--device",
                                           setting.device};
        if (*quantizer) arguments.insert(arguments.end(), {"--quantizer", quantizer});
        if (values.count("threads"))
          arguments.insert(arguments.end(), {"--threads", values["threads"].as<std::string>()});
        const Json answer = parse_json(answer_of(arguments), "the measurement of a step");
        speed[name].push_back(answer.at("figures").at("tokens_per_second").get<double>());
        peak[name].push_back(answer.at("figures").at("peak_bytes").get<double>());
        if (turn == 0) order.push_back(name);
      }
  Figures out;
  for (const std::string& name : order)
    out.push_back({name + "_tokens_per_second", bench::median(speed[name])}),
        out.push_back({name + "_peak_bytes", bench::median(peak[name])});
  return out;
}

// Prompt and decoding of --model: the prompt is the first --seq-len tokens of --data. A profile is of one decoded token.
StepReport generation(const Catalog& catalog, const po::variables_map& values, const bench::Setting& setting) {
  trainer::Runtime runtime(catalog, mix_request(catalog, values, false));
  const trainer::ModelSource source = open_model(values);
  const int64_t length = checked_int(values, "seq-len", 1, 1 << 20), decoded = checked_int(values, "new-tokens", 2, 1 << 20);
  const trainer::TextModel text = open_text_model(values, source);
  std::vector<int32_t> prompt = text.tokenizer.encode(setting.text);
  text.require_rows(prompt, "--data");
  if (static_cast<int64_t>(prompt.size()) < length)
    throw Error(TN_E_ARGUMENT, "--data has " + std::to_string(prompt.size()) + " tokens, fewer than the --seq-len of " + std::to_string(length) + " for the prompt");
  prompt.resize(static_cast<size_t>(length));
  trainer::Inference inference = open_inference(runtime, source, values, length + decoded);
  reset_resident_peak();
  StepReport report;
  report.figures = bench::generate(inference.model(), prompt, decoded, setting);
  report.figures.push_back({"peak_bytes", status_bytes("VmHWM")});
  if (values.count("profile")) {
    trainer::Engine& engine = inference.engine();
    report.speeds = {bench::memory_speed(engine, setting.repeat), runtime.measured_device_info().gemm_flops};
    inference.model().start_cache(length + decoded);
    inference.model().feed(prompt);
    engine.set_profiling(true);
    const double begin = bench::now();
    for (int64_t i = 0; i < decoded; ++i) inference.model().feed({prompt[static_cast<size_t>(i % length)]});
    const double seconds = bench::now() - begin;
    engine.set_profiling(false);
    report.profile = bench::profile_rows(engine, static_cast<int>(decoded), seconds, report.speeds);
  }
  return report;
}

struct Measurement {
  const char *name, *summary;
  Figures (*run)(const Catalog&, const bench::Setting&);
};

constexpr Measurement kMeasurements[] = {
    {"device", "copy, triad and matrix products of the device", bench::device},
    {"optimizer-step", "AdamW, 8-bit AdamW and a GaLore refresh; with --optimizer a step of it against its bound",
     bench::optimizer_step},
    {"codec", "encoding and decoding by --states and --activations against a copy", bench::codec},
    {"quantized-linear", "products of --quantizer beside dense f32 ones", bench::quantized_linear},
    {"nf4", "encoding and decoding of NF4", bench::nf4},
    {"attention", "causal attention, forward and backward; with --attention or --lengths a plugin's curve over lengths", bench::attention},
    {"abi-call", "calls through the plugin interface that do next to nothing", bench::abi_call},
    {"step", "a training step of --model with any mix: tokens/s, share of the product speed, memory planned and used",
     nullptr},
    {"generate", "prompt (the first --seq-len tokens of --data) and decoding of --model", nullptr},
    {"open", "opening --model: index, tokenizer, all weights", bench::open_model},
    {"tokenize", "tokenizing --data with --model's tokenizer", bench::tokenize},
    {"lora-step", "LoRA and QLoRA steps of --model, f32 and bf16", nullptr},
};

// "1k,64k": tokens.
std::vector<int64_t> lengths(const std::string& text) {
  std::vector<int64_t> out;
  std::stringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    int64_t unit = 1, n = 0;
    std::string digits = part;
    if (!digits.empty() && (digits.back() == 'k' || digits.back() == 'K')) unit = 1024, digits.pop_back();
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), n);
    if (error != std::errc{} || end != digits.data() + digits.size() || n < 1 || n > trainer::kLongestSequence / unit)
      throw Usage("--lengths " + part + " is not a number of tokens such as 512 or 4k");
    out.push_back(n * unit);
  }
  if (out.empty()) throw Usage("--lengths needs numbers of tokens, as in 1k,4k,64k");
  return out;
}

std::string help() {
  std::string text =
      "tenon bench NAME [flags]\n\nMeasures and prints figures whose keys end in their unit: medians of runs that take "
      "turns.\n\n";
  for (const Measurement& m : kMeasurements)
    text += std::string("  ") + m.name + std::string(18 - std::string(m.name).size(), ' ') + m.summary + "\n";
  return text + "\n  tenon bench step --model SmolLM2.gguf --adapter lora:r=16 --profile\n  tenon bench attention --attention lightning-attention --lengths 1k,4k,16k,64k\n";
}

void print_people(const StepReport& report) {
  size_t width = 0;
  for (const auto& f : report.figures) width = std::max(width, f.key.size());
  for (const auto& f : report.figures)
    std::printf("%-*s  %s\n", static_cast<int>(width), f.key.c_str(),
                f.key.ends_with("_bytes") ? format_bytes(static_cast<uint64_t>(f.value)).c_str()
                                          : Json(f.value).dump().c_str());
  if (!report.profile.empty()) bench::print_profile(report.profile, report.speeds);
}

}  // namespace

int run_bench(const std::vector<std::string>& arguments) {
  po::options_description options("Flags (those of train shape the step)");
  add_train_flags(options);
  auto add = options.add_options();
  add("name", po::value<std::string>(), "what to measure (also without the flag)");
  add("repeat", po::value<std::string>(), "turns of each measurement; default 7");
  add("lengths", po::value<std::string>(), "attention: tokens of the sequences, e.g. 1k,4k,64k; with --attention default 1k,2k,4k,8k");
  add("quick", "small sizes: shows that it works, measures nothing");
  add("profile", "of a step, or of a token that generate decodes: time, bytes and operations by operator, with the bound of each");
  add("new-tokens", po::value<std::string>()->default_value("64"), "of generate: how many are decoded");
  add("json", "print {\"figures\": {key: number}}");
  po::positional_options_description positional;
  positional.add("name", 1);
  po::variables_map values;
  if (!parse(arguments, options, positional, help(), values)) return 0;
  if (!values.count("name")) throw Usage("say what to measure, as in `tenon bench device`; --help lists the names");
  const std::string name = values["name"].as<std::string>();
  apply_threads(values);
  bench::Setting setting;
  setting.device = values["device"].as<std::string>();
  setting.optimizer = values["optimizer"].as<std::string>();
  setting.states = value_or<std::string>(values, "states", ""), setting.activations = value_or<std::string>(values, "activations", "");
  setting.quantizer = value_or<std::string>(values, "quantizer", "");
  setting.quick = values.count("quick") > 0;
  setting.repeat = values.count("repeat") ? static_cast<int>(checked_int(values, "repeat", 1, 100000))
                   : setting.quick        ? 2
                                          : 7;

  if (name == "open" || name == "tokenize") setting.model = required(values, "model");
  if (name == "tokenize" || name == "generate") setting.text = read_text(required(values, "data"), "--data");
  setting.attention = values["attention"].as<std::string>();
  setting.lengths = lengths(value_or<std::string>(values, "lengths", setting.quick ? "128,256" : "1k,2k,4k,8k"));

  const Catalog catalog = trainer::open_catalog();
  StepReport report;
  std::vector<std::string> names;
  bool found = false;
  for (const Measurement& m : kMeasurements) {
    names.emplace_back(m.name);
    if (name != m.name) continue;
    found = true;
    if (name == "attention" && (!values["attention"].defaulted() || values.count("lengths")))
      report.figures = bench::attention_lengths(catalog, setting);
    else if (name == "optimizer-step" && !values["optimizer"].defaulted())
      report.figures = bench::optimizer_matrix(catalog, setting);
    else if (m.run)
      report.figures = m.run(catalog, setting);
    else if (name == "generate")
      report = generation(catalog, values, setting);
    else if (name == "step")
      report = step(catalog, values, setting);
    else
      report.figures = lora_step(values, setting);
  }
  if (!found) throw Usage("there is no measurement " + name + suggestion(name, names, "there are"));
  if (!values.count("json")) return print_people(report), 0;
  nlohmann::json json;
  for (const auto& f : report.figures) json["figures"][f.key] = f.value;
  if (!report.profile.empty()) json["profile"] = bench::profile_json(report.profile);
  print_json(json);
  return 0;
}

}  // namespace tenon::cli
