// Tokenized documents, and reading them from plain text and JSON lines.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "hosts/trainer/text/text_model.h"

namespace tenon::trainer {

// Documents one after another. A document is [starts[i], starts[i + 1]) of `tokens`, the last one up to their end.
struct Documents {
  std::string source;  // names the data in errors
  std::vector<int32_t> tokens;
  std::vector<uint64_t> starts;
  // Per token, 1 when predicting it counts; empty when every token counts. Prompts do not count, nor what the user
  // says.
  std::vector<uint8_t> counts;

  size_t size() const { return starts.size(); }
  uint64_t begin(size_t document) const { return starts[document]; }
  uint64_t end(size_t document) const { return document + 1 < starts.size() ? starts[document + 1] : tokens.size(); }
  // The documents of these indices, in the order given.
  Documents subset(const std::vector<size_t>& indices) const;
};

struct ReadOptions {
  std::string text_field = "text";
  bool add_eos = true;  // between documents: after "text" and "completion", unless the tokens end with it
};

// A file whose name ends in .jsonl or .ndjson has one JSON object a line: "messages" (a conversation; the model's chat
// template renders it and the assistant's answers count), "prompt" and "completion" (the completion counts) or the text
// field. Any other file is one document of plain text, to which nothing is added. The file is read as a stream; only
// the ids stay in memory. Throws one Error naming the file, and the line or byte, for data that is empty, not UTF-8,
// not JSON or without a known field.
Documents read_documents(const std::string& path, const TextModel& model, const ReadOptions& options = {});

// The same from memory; `source` names it and decides by its ending.
Documents parse_documents(std::string_view bytes, const std::string& source, const TextModel& model,
                          const ReadOptions& options = {});

}  // namespace tenon::trainer
