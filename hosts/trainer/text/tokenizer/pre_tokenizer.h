// The pre-tokenizers of tokenizer.json: how a text is cut into the pieces that the model sees one by one.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "hosts/trainer/text/json_input.h"

namespace tenon::trainer {

// Where a piece begins: with the whole text, with a later part of a text that is read in parts, or inside.
enum class Origin { kStart, kContinued, kInside };

// What happens between a letter or digit and a newline after it.
enum class NewlineCut {
  kAlways,  // a piece ends there, whatever surrounds the two
  kKeeps,   // the step does not care: cutting there before or after it is the same
  kNever,   // unknown, so that a text must not be cut there
};

// Pieces of one text in order. Views point into the text or into `owned`, for steps that rewrite.
struct Pieces {
  struct Piece {
    std::string_view text;
    Origin origin;
  };
  std::vector<Piece> list;
  std::deque<std::string> owned;
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void apply(Pieces& pieces) const = 0;
  virtual NewlineCut at_newline() const = 0;
  // Spelling bytes in GPT-2's alphabet can be left to the model when it is the last step: returns whether it is, and
  // stops doing it.
  virtual bool hand_over_bytes() { return false; }
};

// nullptr for JSON null. Throws Error naming an unknown type.
std::unique_ptr<PreTokenizer> make_pre_tokenizer(const Json& spec, const std::string& where, int depth = 0);

}  // namespace tenon::trainer
