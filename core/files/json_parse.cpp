#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/files/atomic_file.h"
#include "core/files/json.h"
#include "core/files/mapped_file.h"

namespace tenon {
namespace {

std::string line_and_column(std::string_view text, size_t at) {
  const std::string_view before = text.substr(0, at);
  size_t line = 1;
  for (const char c : before) line += c == '\n';
  const size_t newline = before.rfind('\n');
  const size_t column = newline == std::string_view::npos ? at + 1 : at - newline;
  return "line " + std::to_string(line) + ", column " + std::to_string(column);
}

// Builds the value from parser events, so that every limit holds before memory is used for what lies beyond it.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view text, const std::string& what, const JsonLimits& limits)
      : text_(text), what_(what), limits_(limits) {}

  Json take() { return std::move(root_); }

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(int64_t value) override { return put(value); }
  bool number_unsigned(uint64_t value) override { return put(value); }
  bool number_float(double value, const std::string&) override { return put(value); }
  bool string(std::string& value) override { return put(std::move(value)); }
  bool binary(Json::binary_t&) override { return false; }
  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(std::string& name) override {
    const auto [at, inserted] = open_.back()->get_ref<Json::object_t&>().emplace(std::move(name), nullptr);
    if (!inserted && limits_.unique_keys) {
      throw Error(TN_E_FORMAT,
                  what_ + ": the key " + quote_name(at->first) + " appears twice in one object; keep one of the two");
    }
    slot_ = &at->second;
    return true;
  }

  bool parse_error(size_t position, const std::string& token, const nlohmann::detail::exception& error) override {
    // Position counts the bytes read: the last one is the offending one.
    const size_t at = position == 0 ? 0 : position - 1;
    if (at >= text_.size()) {
      throw Error(TN_E_FORMAT, what_ + ": the JSON text ends too early, at " + line_and_column(text_, text_.size()) +
                                   "; the file is damaged or cut, write or download it again");
    }
    std::string problem = "is not valid JSON near " +
                          quote_name(std::string_view(token).substr(token.size() - std::min<size_t>(token.size(), 32)));
    if (std::string_view(error.what()).find("UTF-8") != std::string_view::npos)
      problem = "has a byte that is not UTF-8";
    if (error.id == kNumberOutOfRange) problem = "has a number that does not fit a double";
    throw Error(TN_E_FORMAT,
                what_ + ": " + line_and_column(text_, at) + " " + problem + "; correct it or download the file again");
  }

 private:
  static constexpr int kNumberOutOfRange = 406;  // Documented id of the library's exception.

  Json* place(Json value) {
    if (++values_ > limits_.max_values) {
      throw Error(TN_E_FORMAT, what_ + ": the JSON text has more than " + std::to_string(limits_.max_values) +
                                   " values, which is the limit; the file is not what it should be");
    }
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      auto& array = open_.back()->get_ref<Json::array_t&>();
      array.push_back(std::move(value));
      return &array.back();
    }
    *slot_ = std::move(value);
    return slot_;
  }

  bool put(Json value) {
    place(std::move(value));
    return true;
  }

  bool open(Json empty) {
    if (static_cast<int>(open_.size()) >= limits_.max_depth) {
      throw Error(TN_E_FORMAT, what_ + ": the JSON text is nested deeper than " + std::to_string(limits_.max_depth) +
                                   " levels, which is the limit; the file is damaged or hostile");
    }
    open_.push_back(place(std::move(empty)));
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  std::string_view text_;
  const std::string& what_;
  const JsonLimits& limits_;
  Json root_;
  // Arrays and objects not closed yet. The pointers hold: an array grows only while it is the innermost one.
  std::vector<Json*> open_;
  Json* slot_ = nullptr;
  uint64_t values_ = 0;
};

}  // namespace

Json parse_json(std::string_view text, const std::string& what, const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    throw Error(TN_E_FORMAT, what + ": the JSON text has " + std::to_string(text.size()) + " bytes and the limit is " +
                                 std::to_string(limits.max_bytes) + "; the file is not what it should be");
  }
  // The parser would take a NUL byte for the end of the text and ignore what follows.
  const size_t nul = text.find('\0');
  if (nul != std::string_view::npos) {
    throw Error(TN_E_FORMAT, what + ": " + line_and_column(text, nul) +
                                 " has a NUL byte, which JSON text cannot have; write or download the file again");
  }
  Builder builder(text, what, limits);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

Json read_json_file(const std::string& path, const JsonLimits& limits) {
  const MappedFile file(path);
  return parse_json(as_text(file.bytes()), path, limits);
}

void write_json_file(const std::string& path, const Json& value) {
  std::string text;
  try {
    text = value.dump(2);
  } catch (const Json::type_error&) {
    throw Error(TN_E_ARGUMENT,
                path + ": cannot write JSON with a string that is not UTF-8; remove the broken characters");
  }
  write_file_atomically(path, text + "\n");
}

}  // namespace tenon
