// The normalizers of tokenizer.json: what happens to a text before it is cut into pieces.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "hosts/trainer/text/json_input.h"

namespace tenon::trainer {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // Rewrites `text` in place. `continues`: it is a later part of a longer text, so that a prefix was given already.
  virtual void apply(std::string& text, bool continues) const = 0;
  // Whether normalizing the two parts of a text that is cut between a letter or digit and a newline equals normalizing
  // it whole.
  virtual bool cuts_at_newlines() const { return true; }
};

// nullptr for JSON null. Throws Error naming an unknown type. `depth` bounds nested Sequences.
std::unique_ptr<Normalizer> make_normalizer(const Json& spec, const std::string& where, int depth = 0);
std::unique_ptr<Normalizer> make_prepend(std::string prefix);
std::unique_ptr<Normalizer> make_replace(std::string from, std::string to);
std::unique_ptr<Normalizer> make_sequence(std::vector<std::unique_ptr<Normalizer>> steps);

}  // namespace tenon::trainer
