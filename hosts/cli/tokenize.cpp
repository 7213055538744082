// tenon tokenize: the token ids of a text.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "hosts/cli/command.h"
#include "hosts/cli/mix_flags.h"
#include "hosts/cli/output.h"

namespace tenon::cli {

int run_tokenize(const std::vector<std::string>& arguments) {
  po::options_description options("Flags");
  add_model_flags(options);
  auto add = options.add_options();
  add("text-file", po::value<std::string>(), "the text (UTF-8)");
  add("text", po::value<std::string>(), "the text itself, instead of a file");
  add("special", "add the model's special tokens, such as <s>");
  add("json", "print {\"ids\": […]}");
  po::variables_map values;
  if (!parse(arguments, options, {}, "tenon tokenize --model M --text-file F\n\nThe ids of a text under the model's own tokenizer. Special tokens that are written in the text\nare recognised; none are added without --special.\n", values))
    return 0;
  const trainer::ModelSource source = open_model(values);
  const trainer::Tokenizer tokenizer = open_text_model(values, source).tokenizer;
  if (values.count("text") == values.count("text-file")) throw Usage("give either --text-file or --text");
  const std::string text = values.count("text") ? values["text"].as<std::string>() : read_text(values["text-file"].as<std::string>(), "--text-file");
  const std::vector<int32_t> ids = tokenizer.encode(text, values.count("special") > 0);
  if (values.count("json")) {
    print_json({{"ids", ids}, {"tokens", ids.size()}});
    return 0;
  }
  for (size_t i = 0; i < ids.size(); ++i) std::printf("%s%d", i ? " " : "", ids[i]);
  std::printf("\n");
  remark(with_commas(static_cast<int64_t>(ids.size())) + " tokens, " + with_commas(static_cast<int64_t>(text.size())) + " bytes");
  return 0;
}

}  // namespace tenon::cli
