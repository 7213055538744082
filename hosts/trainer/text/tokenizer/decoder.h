// The decoders of tokenizer.json: token strings back to text.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "hosts/trainer/text/json_input.h"

namespace tenon::trainer {

class Decoder {
 public:
  virtual ~Decoder() = default;
  // Rewrites the tokens; their concatenation is the text.
  virtual void apply(std::vector<std::string>& tokens) const = 0;
};

// nullptr for JSON null. Throws Error naming an unknown type.
std::unique_ptr<Decoder> make_decoder(const Json& spec, const std::string& where, int depth = 0);

}  // namespace tenon::trainer
