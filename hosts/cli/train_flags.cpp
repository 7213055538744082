#include "hosts/cli/train_flags.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/json.h"
#include "hosts/trainer/run/inference.h"
#include "hosts/trainer/schedule/parse.h"

namespace tenon::cli {
namespace {

// The host holds some 16 bytes for each token of a micro-batch, also when it only plans.
constexpr int64_t kMostTokens = int64_t{1} << 27;

po::typed_value<std::string>* with_default(const char* value) { return po::value<std::string>()->default_value(value); }

bool given(const po::variables_map& values, const char* flag) { return values.count(flag) && !values[flag].defaulted(); }

trainer::Offload parse_offload(const std::string& name) {
  if (name == "auto") return trainer::Offload::kAuto;
  if (name == "host") return trainer::Offload::kHost;
  if (name == "file") return trainer::Offload::kFile;
  throw Usage("--act-offload " + name + " is not one of auto, host, file");
}

trainer::WeightUpdate parse_update(const std::string& name) {
  if (name == "stochastic") return trainer::WeightUpdate::kStochastic;
  if (name == "master") return trainer::WeightUpdate::kMaster;
  if (name == "nearest") return trainer::WeightUpdate::kNearest;
  throw Usage("--weight-update " + name + " is not one of stochastic, master, nearest");
}

}  // namespace

void add_train_flags(po::options_description& options) {
  add_model_flags(options);
  auto add = options.add_options();
  add("data", po::value<std::string>(), "training text (.txt …), or JSON lines with text, prompt/completion or messages");
  add("output", po::value<std::string>(), "folder for metrics, checkpoints, the report and final/");
  add_mix_flags(options, true);
  add_embedding_flag(options);
  add("seq-len", with_default("256"), "tokens of a window");
  add("batch-size", with_default("4"), "windows of a micro-batch");
  add("accumulate", with_default("1"), "micro-batches of a step");
  add("steps", po::value<std::string>(), "optimizer steps; default: one epoch");
  add("epochs", po::value<std::string>(), "passes over the data, instead of --steps");
  add("lr", with_default("0.0002"), "learning rate at its highest");
  add("schedule", with_default("cosine"), "constant, linear, cosine or wsd");
  add("warmup", with_default("0.03"), "steps of linear warm-up; below 1: a share of all steps");
  add("lr-floor", with_default("0.1"), "last learning rate of linear and cosine, as a share of --lr");
  add("clip", with_default("1"), "clip gradients to this global norm; 0 = off");
  add("order", with_default("shuffled"), "shuffled or sequential");
  add("seed", with_default("0"), "of everything random");
  add("weight-update", with_default("stochastic"), "how updates reach bf16 weights: stochastic rounding, f32 master copies, or nearest");
  add("grad-checkpoint", po::value<std::string>()->implicit_value("flash-cut"),
      "recompute activations in backward: flash-cut (default), block, every-K, keep:LIST of qkv, attention, middle, mlp; then exceptions: \"block, none for blocks 24-29\"");
  add("tiled-loss", "compute logits and loss in tiles of rows: the default, but for optimizers that take gradients per sample");
  add("tiled-mlp", "compute the MLPs in tiles of rows");
  add("streambp", po::value<std::string>()->implicit_value("512"), "run each block in slices of this many rows: one block's activations are those of a slice");
  add("seco", po::value<std::string>()->implicit_value("512"), "run the whole model in chunks of this many rows over stored keys and values");
  add("spaco", po::value<std::string>(), "with --seco: run so many chunks of a micro-batch backward, on average, picked at random and weighed");
  add("spaco-clip", with_default("0"), "most that a picked chunk counts for; 0: no bound, and no bias");
  add("act-offload", po::value<std::string>()->implicit_value("auto"), "keep saved activations outside of the device's memory: host, file, or auto: host where the device has memory of its own");
  add("offload-dir", po::value<std::string>(), "folder of the file of --act-offload file; default: --output");
  add("offload-keep-last", with_default("1"), "blocks at the end of the model whose saved activations stay");
  add("zero-offload", "optimizer states and updates on the host, where the device has memory of its own");
  add("fused-backward", "update each weight inside backward and free its gradient at once");
  add("loss-tile", po::value<std::string>(), "most that the logits of a tile take, e.g. 32MiB; default: those of 512 tokens");
  add("held-out", with_default("0"), "share of the data kept for evaluation, e.g. 0.1");
  add("eval-data", po::value<std::string>(), "a file to evaluate on instead");
  add("eval-every", with_default("0"), "steps between evaluations; 0: before and after only");
  add("isolate-documents", "attention starts anew at each document of a packed window");
  add("no-pack", "one document per window, padded, instead of packing");
  add("checkpoint-every", with_default("0"), "steps between checkpoints; 0: none");
  add("keep-checkpoints", with_default("2"), "newest checkpoints that are kept");
  add("resume", "continue from the newest checkpoint in --output, with the settings it was made with; of --lr, --lr-floor, --schedule, --warmup and --steps others may be given");
  add("overwrite", "replace a run that is in --output");
}

std::vector<std::string> recipe_arguments(const nlohmann::json& recipe, const std::string& where) {
  if (!recipe.is_object()) throw Usage(where + " must hold a JSON object of flags and values");
  std::vector<std::string> arguments;
  const auto add = [&](const std::string& key, const nlohmann::json& value) {
    if (value.is_object() || value.is_array() || value.is_null() || value.is_boolean())
      throw Usage(where + ": " + key + " has a value " + value.dump() + " that is neither a text nor a number");
    // One argument each, so that a value which begins with dashes stays a value.
    arguments.push_back("--" + key + "=" + (value.is_string() ? value.get<std::string>() : value.dump()));
  };
  for (const auto& [key, value] : recipe.items()) {
    if (key == "help" || key == "recipe" || key.find('=') != std::string::npos) throw Usage(where + ": " + key + " is not a flag that a recipe may hold");
    if (value.is_null()) continue;
    if (value.is_boolean()) {
      if (value.get<bool>()) arguments.push_back("--" + key);
    } else if (value.is_array()) {
      for (const auto& v : value) add(key, v);
    } else {
      add(key, value);
    }
  }
  return arguments;
}

bool parse_with_recipe(const std::vector<std::string>& arguments, po::options_description& options, const std::string& help, po::variables_map& values) {
  options.add_options()("recipe", po::value<std::string>(), "a JSON file of flags; those on the command line win");
  if (!parse(arguments, options, {}, help, values)) return false;
  if (!values.count("recipe")) return true;
  const std::string path = values["recipe"].as<std::string>();
  // What is stored first stays, defaults apart.
  po::variables_map merged;
  po::store(po::command_line_parser(arguments).options(options).run(), merged);
  JsonLimits limits;
  limits.unique_keys = true;
  const std::vector<std::string> recipe = recipe_arguments(read_json_file(path, limits), "--recipe " + path);
  try {
    parse(recipe, options, {}, "", merged);
  } catch (const Usage& e) {
    throw Usage("--recipe " + path + ": " + e.what());
  }
  values = merged;
  return true;
}

trainer::TrainOptions train_options(const po::variables_map& values, trainer::MixRequest& mix) {
  trainer::TrainOptions o;
  o.data = value_or<std::string>(values, "data", ""), o.output = value_or<std::string>(values, "output", "");
  o.evaluation_data = value_or<std::string>(values, "eval-data", "");
  o.calibration = value_or<std::string>(values, "calibration", "");
  o.session.sequence = checked_int(values, "seq-len", 2, trainer::kLongestSequence);
  o.batch = checked_int(values, "batch-size", 1, 1 << 20);
  if (o.batch > kMostTokens / o.session.sequence)
    throw Usage("--batch-size " + std::to_string(o.batch) + " times --seq-len " + std::to_string(o.session.sequence) + " are more than the " +
                std::to_string(kMostTokens) + " tokens that a micro-batch can have; take a smaller --batch-size and more of --accumulate");
  o.session.accumulate = checked_int(values, "accumulate", 1, 1 << 20);
  if (values.count("steps") && values.count("epochs")) throw Usage("give either --steps or --epochs");
  if (values.count("steps")) o.steps = checked_int(values, "steps", 1, int64_t{1} << 40);
  o.epochs = values.count("epochs") ? checked_double(values, "epochs", 1e-9, 1e6) : 1;
  o.schedule.kind = trainer::parse_schedule(values["schedule"].as<std::string>());
  o.schedule.lr = checked_double(values, "lr", 0, 1e6);
  o.schedule.floor = checked_double(values, "lr-floor", 0, 1);
  const double warmup = checked_double(values, "warmup", 0, 1e12);
  if (warmup < 1)
    o.warmup_share = warmup;
  else
    o.schedule.warmup = static_cast<int64_t>(warmup);
  o.session.clip = checked_double(values, "clip", 0, 1e12);
  const std::string order = values["order"].as<std::string>();
  if (order != "shuffled" && order != "sequential") throw Usage("--order " + order + " is not one of shuffled, sequential");
  o.order = order == "shuffled" ? trainer::Order::kShuffled : trainer::Order::kSequential;
  o.session.seed = static_cast<uint64_t>(checked_int(values, "seed", 0, INT64_MAX));
  o.session.storage = o.compute = trainer::parse_dtype(values["dtype"].as<std::string>());
  o.session.update = parse_update(values["weight-update"].as<std::string>());
  trainer::MemoryOptions& memory = o.session.memory;
  if (values.count("grad-checkpoint")) trainer::parse_checkpointing(values["grad-checkpoint"].as<std::string>(), memory);
  if (values.count("streambp")) memory.stream_rows = checked_int(values, "streambp", 1, trainer::kLongestSequence);
  if (values.count("seco")) memory.chunk_rows = checked_int(values, "seco", 1, trainer::kLongestSequence);
  if (values.count("spaco")) memory.chunks_picked = checked_int(values, "spaco", 1, trainer::kLongestSequence);
  memory.spaco_clip = checked_double(values, "spaco-clip", 0, 1e6);
  if (values.count("act-offload")) memory.offload = parse_offload(values["act-offload"].as<std::string>());
  memory.offload_keep_last = checked_int(values, "offload-keep-last", 0, 1 << 20);
  o.session.offload_folder = value_or<std::string>(values, "offload-dir", o.output);
  trainer::check_memory_options(memory, values.count("grad-checkpoint") > 0);
  memory.tiled_mlp = values.count("tiled-mlp") > 0;
  if (values.count("loss-tile")) memory.loss_tile_bytes = static_cast<int64_t>(parse_size(values["loss-tile"].as<std::string>(), "--loss-tile"));
  o.session.fused_backward = values.count("fused-backward") > 0;
  o.held_out = checked_double(values, "held-out", 0, 0.9);
  o.evaluate_every = checked_int(values, "eval-every", 0, int64_t{1} << 40);
  o.isolate_documents = values.count("isolate-documents") > 0;
  o.windows.length = o.session.sequence, o.windows.pack = !values.count("no-pack"), o.windows.isolate_documents = o.isolate_documents;
  o.checkpoint_every = checked_int(values, "checkpoint-every", 0, int64_t{1} << 40);
  o.keep_checkpoints = static_cast<int>(checked_int(values, "keep-checkpoints", 1, 1 << 20));
  for (const char* flag : trainer::kRateFlags)
    if (given(values, flag)) o.changed_rates.insert(std::string("--") + flag);
  o.resume = values.count("resume") > 0, o.overwrite = values.count("overwrite") > 0;
  o.memory_limit = memory_limit(values);
  if (o.session.fused_backward) mix.run_tags.push_back("run:fused-backward");
  if (o.session.accumulate > 1) mix.run_tags.push_back("run:accumulate");
  if (memory.tiled_mlp) mix.run_tags.push_back("run:tiled-mlp");
  if (values.count("tiled-loss") || values.count("loss-tile") || memory.stream_rows > 0 || memory.chunk_rows > 0) mix.run_tags.push_back("run:tiled-loss");
  if (memory.stream_rows > 0) mix.run_tags.push_back("run:streambp");
  if (memory.chunk_rows > 0) mix.run_tags.push_back("run:seco");
  mix.zero_offload = values.count("zero-offload") > 0;
  if (mix.zero_offload) mix.run_tags.push_back("run:zero-offload");
  if (memory.offload != trainer::Offload::kNone) mix.run_tags.push_back("run:act-offload");
  if (o.session.clip > 0) (given(values, "clip") ? mix.run_tags : mix.yielding_tags).push_back("run:clip-global-norm");
  return o;
}

std::string settle_defaults(trainer::TrainOptions& o, const trainer::Runtime& runtime) {
  if (runtime.yielded_tags().empty()) return "";
  o.session.clip = 0;
  return "this mix has no gradients to clip by their global norm, so clipping is off";
}

}  // namespace tenon::cli
