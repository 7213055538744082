// tenon generate: continue a prompt.
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "hosts/cli/command.h"
#include "hosts/cli/mix_flags.h"
#include "hosts/cli/output.h"
#include "hosts/trainer/run/features.h"
#include "hosts/trainer/run/generate.h"
#include "hosts/trainer/run/inference.h"

namespace tenon::cli {

int run_generate(const std::vector<std::string>& arguments) {
  po::options_description options("Flags");
  add_model_flags(options);
  auto add = options.add_options();
  add("prompt", po::value<std::string>(), "the prompt");
  add("prompt-file", po::value<std::string>(), "the prompt, from a file");
  add("system", po::value<std::string>(), "system message of the chat");
  add("raw", "continue the text as it is; without this a model with a chat template answers it");
  add("max-new-tokens", po::value<std::string>()->default_value("128"), "tokens at the most");
  add("temperature", po::value<std::string>()->default_value("0.7"), "0: always the likeliest token");
  add("top-k", po::value<std::string>()->default_value("0"), "draw among this many; 0 = all");
  add("top-p", po::value<std::string>()->default_value("0.95"), "draw among the likeliest that hold this share");
  add("seed", po::value<std::string>()->default_value("0"), "the same seed gives the same text");
  add("ignore-eos", "go on after an end-of-text token");
  add_mix_flags(options, false);
  add_embedding_flag(options);
  add("json", "print {\"ids\", \"text\", …}");
  po::variables_map values;
  if (!parse(arguments, options, {}, "tenon generate --model M --prompt \"Once upon a time\"\n\nContinues a prompt. A chat model is asked through its own chat template, unless --raw.\n", values))
    return 0;
  if (values.count("prompt") == values.count("prompt-file")) throw Usage("give either --prompt or --prompt-file");
  const std::string prompt = values.count("prompt") ? values["prompt"].as<std::string>() : read_text(values["prompt-file"].as<std::string>(), "--prompt-file");
  trainer::SamplingOptions sampling;
  sampling.max_new_tokens = checked_int(values, "max-new-tokens", 1, 1 << 24);
  sampling.temperature = checked_double(values, "temperature", 0, 100);
  sampling.top_k = checked_int(values, "top-k", 0, 1 << 24), sampling.top_p = checked_double(values, "top-p", 1e-6, 1);
  sampling.seed = static_cast<uint64_t>(checked_int(values, "seed", 0, INT64_MAX));
  apply_threads(values);

  const Catalog catalog = trainer::open_catalog();
  const trainer::ModelSource source = open_model(values);
  const trainer::TextModel text = open_text_model(values, source);
  std::vector<int32_t> ids;
  if (text.chat_template && !values.count("raw")) {
    trainer::OrderedJson messages = trainer::OrderedJson::array();
    if (values.count("system")) messages.push_back({{"role", "system"}, {"content", values["system"].as<std::string>()}});
    messages.push_back({{"role", "user"}, {"content", prompt}});
    trainer::ChatOptions chat;
    chat.add_generation_prompt = true, chat.bos_token = text.bos_token, chat.eos_token = text.eos_token;
    ids = text.tokenizer.encode(text.chat_template->render(messages, chat));
  } else {
    ids = text.tokenizer.encode(prompt, true);
  }
  text.require_rows(ids, "the prompt");
  if (!values.count("ignore-eos")) {
    sampling.stop = source.config().eos;
    if (text.eos_id) sampling.stop.push_back(*text.eos_id);
  }
  trainer::Runtime runtime(catalog, mix_request(catalog, values, false));
  trainer::Inference inference = open_inference(runtime, source, values, static_cast<int64_t>(ids.size()) + sampling.max_new_tokens);
  const bool json = values.count("json") > 0;
  trainer::StreamDecoder decoder(text.tokenizer, true);
  std::string shown;
  const auto begin = std::chrono::steady_clock::now();
  const std::vector<int32_t> out = trainer::generate(inference.model(), ids, sampling, [&](int32_t id) {
    const std::string piece = decoder.push(id);
    shown += piece;
    if (!json) std::fwrite(piece.data(), 1, piece.size(), stdout), std::fflush(stdout);
    return true;
  });
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const std::string rest = decoder.finish();
  shown += rest;
  if (json) {
    print_json({{"ids", out}, {"text", shown}, {"prompt_tokens", ids.size()}, {"peak_bytes", inference.engine().memory().use().total_peak}, {"seconds", seconds}, {"tokens_per_second", static_cast<double>(out.size()) / seconds}});
  } else {
    std::printf("%s\n", rest.c_str());
    char line[80];
    std::snprintf(line, sizeof line, "%zu tokens, %.1f per second", out.size(), static_cast<double>(out.size()) / seconds);
    remark(line);
  }
  return 0;
}

}  // namespace tenon::cli
