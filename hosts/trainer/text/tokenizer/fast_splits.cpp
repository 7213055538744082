#include "hosts/trainer/text/tokenizer/fast_splits.h"

#include "hosts/trainer/text/unicode/char_class.h"
#include "hosts/trainer/text/unicode/utf8.h"

namespace tenon::trainer {

const char* const kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const char* const kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

namespace {

struct Scanner {
  std::string_view text;
  const uint8_t* classes;

  // Class of the character at pos and, in `after`, where it ends.
  uint8_t look(size_t pos, size_t& after) const {
    after = pos;
    return classes[next_utf8(text, after)];
  }
  // End of the run of characters from pos whose class has a bit of `wanted`.
  size_t run(size_t pos, uint8_t wanted) const {
    for (size_t after; pos < text.size() && (look(pos, after) & wanted); pos = after) {
    }
    return pos;
  }
  size_t run_without(size_t pos, uint8_t unwanted) const {
    for (size_t after; pos < text.size() && !(look(pos, after) & unwanted); pos = after) {
    }
    return pos;
  }
  // \s+(?!\S)|\s+ : a run of spaces leaves its last one to a word that follows.
  size_t spaces(size_t pos) const {
    const size_t end = run(pos, kSpace);
    if (end == text.size()) return end;
    size_t last = end;
    previous_utf8(text, last);
    return last > pos ? last : end;
  }
};

// End of a contraction ('s 't 're 've 'm 'll 'd) at pos, or pos. Folding case, U+017F is an s too, as Unicode has it.
size_t contraction(std::string_view text, size_t pos, bool fold_case) {
  const auto at = [&](size_t i) {
    if (pos + i >= text.size()) return '\0';
    const char c = text[pos + i];
    return fold_case && c >= 'A' && c <= 'Z' ? char(c + 32) : c;
  };
  const char a = at(1), b = at(2);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return pos + 2;
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return pos + 3;
  if (fold_case && a == '\xC5' && b == '\xBF') return pos + 3;
  return pos;
}

bool is_newline(char c) {
  return c == '\r' || c == '\n';
}

}  // namespace

void split_gpt2(std::string_view text, std::vector<std::string_view>& out) {
  const Scanner s{text, char_class_table()};
  for (size_t pos = 0; pos < text.size();) {
    size_t end = pos;
    if (text[pos] == '\'') end = contraction(text, pos, false);
    if (end == pos) {
      size_t start = pos, after;
      if (text[pos] == ' ' && pos + 1 < text.size()) ++start;
      const uint8_t c = s.look(start, after);
      if (c & kLetter) {
        end = s.run(after, kLetter);
      } else if (c & kNumber) {
        end = s.run(after, kNumber);
      } else if (!(c & kSpace)) {
        end = s.run_without(after, kSpace | kLetter | kNumber);
      } else {
        end = s.spaces(pos);
      }
    }
    out.push_back(text.substr(pos, end - pos));
    pos = end;
  }
}

void split_cl100k(std::string_view text, int max_digits, std::vector<std::string_view>& out) {
  const Scanner s{text, char_class_table()};
  for (size_t pos = 0; pos < text.size();) {
    size_t end = pos;
    if (text[pos] == '\'') end = contraction(text, pos, true);
    if (end == pos) {
      size_t after, after2;
      const uint8_t c = s.look(pos, after);
      const uint8_t next = after < text.size() ? s.look(after, after2) : 0;
      if (c & kLetter) {
        end = s.run(after, kLetter);
      } else if (c & kNumber) {
        end = after;
        for (int n = 1; n < max_digits && end < text.size() && (s.look(end, after2) & kNumber); ++n) end = after2;
      } else if ((next & kLetter) && !is_newline(text[pos])) {
        end = s.run(after2, kLetter);
      } else if (!(c & kSpace) || (text[pos] == ' ' && after < text.size() && !(next & (kSpace | kLetter | kNumber)))) {
        end = s.run_without(after, kSpace | kLetter | kNumber);
        while (end < text.size() && is_newline(text[end])) ++end;
      } else {
        // \s*[\r\n]+ backtracks to the last newline of the run of spaces.
        const size_t run_end = s.run(pos, kSpace);
        const size_t newline = text.substr(pos, run_end - pos).find_last_of("\r\n");
        end = newline != std::string_view::npos ? pos + newline + 1 : s.spaces(pos);
      }
    }
    out.push_back(text.substr(pos, end - pos));
    pos = end;
  }
}

}  // namespace tenon::trainer
