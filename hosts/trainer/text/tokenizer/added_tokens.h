// Tokens that are recognised in the text itself, before any model sees it: specials and the user's additions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace tenon::trainer {

struct AddedToken {
  uint32_t id = 0;
  std::string content;
  bool single_word = false, lstrip = false, rstrip = false, normalized = false, special = false;
};

// Finds the leftmost longest token of a set in a text.
class AddedTokenMatcher {
 public:
  struct Part {
    std::string_view text;
    int64_t id;  // -1: ordinary text
  };

  void add(AddedToken token);
  bool empty() const { return tokens_.empty(); }
  // Appends the parts that cover `text`.
  void split(std::string_view text, std::vector<Part>& out) const;

 private:
  struct Starts {
    std::vector<size_t> lengths;  // of the tokens that begin with one byte, longest first, each once
  };
  const AddedToken* longest_at(std::string_view text, size_t pos) const;

  std::unordered_map<std::string, AddedToken> tokens_;
  std::vector<Starts> starts_{256};
};

}  // namespace tenon::trainer
