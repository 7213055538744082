#include "hosts/trainer/text/tokenizer/tokenizer_files.h"

#include <filesystem>

#include "core/files/atomic_file.h"
#include "core/files/mapped_file.h"
#include "hosts/trainer/text/tokenizer/gguf_vocabulary.h"
#include "hosts/trainer/text/tokenizer/tokenizer_writer.h"

namespace tenon::trainer {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFiles[] = {"tokenizer.json",
                                  "tokenizer_config.json",
                                  "special_tokens_map.json",
                                  "vocab.json",
                                  "merges.txt",
                                  "tokenizer.model",
                                  "added_tokens.json",
                                  "chat_template.jinja",
                                  "generation_config.json"};

}  // namespace

void copy_tokenizer_files(const std::string& source, const GgufFile* gguf, const std::string& folder) {
  if (source.starts_with("preset:")) return;
  const auto target = [&](const char* name) { return (fs::path(folder) / name).string(); };
  if (gguf) {
    if (!gguf->find("tokenizer.ggml.model")) return;
    const GgufVocabulary vocabulary = read_gguf_vocabulary(*gguf);
    write_file_atomically(target("tokenizer.json"), tokenizer_json_of(vocabulary, gguf->path()));
    write_file_atomically(target("tokenizer_config.json"), tokenizer_config_of(vocabulary, *gguf));
    return;
  }
  std::error_code error;
  if (fs::equivalent(source, folder, error)) return;
  for (const char* name : kFiles) {
    const fs::path from = fs::path(source) / name;
    if (!fs::is_regular_file(from, error) || fs::file_size(from, error) == 0) continue;
    const MappedFile file(from.string());
    write_file_atomically(target(name), file.bytes());
  }
}

}  // namespace tenon::trainer
