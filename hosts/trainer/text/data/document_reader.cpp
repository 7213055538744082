#include <algorithm>
#include <functional>
#include <span>

#include "core/error.h"
#include "core/files/mapped_file.h"
#include "hosts/trainer/text/data/documents.h"
#include "hosts/trainer/text/json_input.h"
#include "hosts/trainer/text/unicode/utf8.h"

namespace tenon::trainer {
namespace {

constexpr size_t kDropEvery = 64 << 20;

size_t common_prefix(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  return size_t(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
}

class Reader {
 public:
  Reader(const std::string& source, const TextModel& model, const ReadOptions& options)
      : model_(model), options_(options) {
    out_.source = source;
  }

  void read_text(std::string_view bytes) {
    if (const size_t bad = find_invalid_utf8(bytes); bad != std::string_view::npos)
      throw Error(TN_E_FORMAT,
                  out_.source + ": byte " + std::to_string(bad) + " is not UTF-8; convert the text to UTF-8");
    out_.tokens.reserve(bytes.size() / 4 + 16);
    out_.starts.push_back(0);
    model_.tokenizer.encode_append(bytes, out_.tokens);
    model_.require_rows(out_.tokens, out_.source);
  }

  // `done` learns, now and then, how many bytes will not be read again.
  void read_lines(std::string_view bytes, const std::function<void(size_t)>& done) {
    size_t line = 0, dropped = 0;
    for (size_t begin = 0; begin < bytes.size();) {
      const size_t end = std::min(bytes.find('\n', begin), bytes.size());
      where_ = out_.source + ": line " + std::to_string(++line);
      read_line(bytes.substr(begin, end - begin), begin);
      begin = end + 1;
      if (begin - dropped >= kDropEvery) {
        dropped = begin;
        done(std::min(begin, bytes.size()));
      }
    }
    if (out_.starts.empty())
      throw Error(TN_E_FORMAT, out_.source + ": the file has no documents; give it at least one line");
  }

  Documents take() { return std::move(out_); }

 private:
  void read_line(std::string_view text, size_t offset) {
    if (text.ends_with('\r')) text.remove_suffix(1);
    if (offset == 0 && text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
    if (text.find_first_not_of(" \t") == std::string_view::npos) return;
    if (const size_t bad = find_invalid_utf8(text); bad != std::string_view::npos)
      throw Error(TN_E_FORMAT, where_ + " is not UTF-8 (byte " + std::to_string(offset + bad) +
                                   " of the file); convert it to UTF-8");
    Json object;
    try {
      object = parse_json(text, "");
    } catch (const Error&) {
      throw Error(TN_E_FORMAT, where_ + " is not valid JSON; correct it or remove the line");
    }
    if (!object.is_object())
      throw Error(TN_E_FORMAT, where_ + " is not a JSON object with \"" + options_.text_field + "\"; correct it");
    if (object.contains("messages")) {
      read_chat(text);
    } else if (object.contains("prompt") || object.contains("completion")) {
      const std::string prompt = text_member(object, "prompt");
      const std::string whole = prompt + text_member(object, "completion");
      add(whole, {{prompt.size(), whole.size()}}, true);
    } else if (object.contains(options_.text_field)) {
      const std::string whole = text_member(object, options_.text_field.c_str());
      add(whole, {{0, whole.size()}}, true);
    } else {
      throw Error(TN_E_FORMAT, where_ + " has none of the fields \"" + options_.text_field +
                                   "\", \"prompt\" with \"completion\", or \"messages\"; add one");
    }
  }

  std::string text_member(const Json& object, const char* key) const {
    const auto it = object.find(key);
    if (it == object.end() || !it->is_string())
      throw Error(TN_E_FORMAT,
                  where_ + ": \"" + key + "\" must be a string" +
                      (it == object.end() ? ", but it is absent" : std::string(", not a ") + it->type_name()) +
                      "; correct it");
    return it->get<std::string>();
  }

  void read_chat(std::string_view text) {
    const OrderedJson object = OrderedJson::parse(text);  // parse_json accepted it
    if (!model_.chat_template)
      throw Error(TN_E_UNSUPPORTED,
                  where_ + " has \"messages\", but the model has no chat template; use \"prompt\" and \"completion\"");
    const OrderedJson& messages = object["messages"];
    const bool sound =
        messages.is_array() && !messages.empty() && std::all_of(messages.begin(), messages.end(), [](const auto& m) {
          return m.is_object() && m.contains("role") && m["role"].is_string();
        });
    if (!sound)
      throw Error(TN_E_FORMAT,
                  where_ + ": \"messages\" must be an array of objects with \"role\" and \"content\"; correct it");
    ChatOptions options;
    options.bos_token = model_.bos_token;
    options.eos_token = model_.eos_token;
    if (object.contains("tools")) options.tools = object["tools"];
    RenderedChat chat;
    try {
      chat = model_.chat_template->render_answers(messages, options);
    } catch (const Error& e) {
      throw Error(e.code(), where_ + " cannot be rendered (" + e.what() + ")");
    }
    add(chat.text, chat.answers, false);
  }

  // Appends a document whose byte ranges `counted` count. A token counts when it starts in such a range or crosses into
  // it; the text is tokenized whole, as at inference, and the borders are found by tokenizing what precedes them.
  void add(const std::string& text, const std::vector<std::pair<size_t, size_t>>& counted, bool ends) {
    const std::vector<int32_t> ids = model_.tokenizer.encode(text);
    std::vector<uint8_t> counts(ids.size(), 0);
    const auto border = [&](size_t byte) {
      if (byte == 0) return size_t{0};
      if (byte >= text.size()) return ids.size();
      return common_prefix(model_.tokenizer.encode(std::string_view(text).substr(0, byte)), ids);
    };
    for (const auto& [begin, end] : counted) {
      const size_t first = border(begin), last = border(end);
      if (first < last)
        std::fill(counts.begin() + std::ptrdiff_t(first), counts.begin() + std::ptrdiff_t(last), uint8_t{1});
    }
    const bool partly = std::find(counts.begin(), counts.end(), 0) != counts.end();
    if (partly && out_.counts.empty()) out_.counts.assign(out_.tokens.size(), 1);
    const bool keeps = partly || !out_.counts.empty();
    out_.starts.push_back(out_.tokens.size());
    out_.tokens.insert(out_.tokens.end(), ids.begin(), ids.end());
    if (keeps) out_.counts.insert(out_.counts.end(), counts.begin(), counts.end());
    if (ends && options_.add_eos && model_.eos_id && (ids.empty() || ids.back() != *model_.eos_id)) {
      out_.tokens.push_back(*model_.eos_id);
      if (keeps) out_.counts.push_back(1);
    }
    model_.require_rows(std::span(out_.tokens).subspan(out_.starts.back()), where_);
    if (out_.tokens.size() == out_.starts.back()) out_.starts.pop_back();  // an empty document
  }

  const TextModel& model_;
  const ReadOptions& options_;
  Documents out_;
  std::string where_;
};

bool has_lines(const std::string& source) {
  return source.ends_with(".jsonl") || source.ends_with(".ndjson");
}

Documents read(std::string_view bytes, const std::string& source, const TextModel& model, const ReadOptions& options,
               const std::function<void(size_t)>& done) {
  if (bytes.empty()) throw Error(TN_E_FORMAT, source + ": the file is empty; give it text");
  Reader reader(source, model, options);
  if (has_lines(source))
    reader.read_lines(bytes, done);
  else
    reader.read_text(bytes);
  return reader.take();
}

}  // namespace

Documents parse_documents(std::string_view bytes, const std::string& source, const TextModel& model,
                          const ReadOptions& options) {
  return read(bytes, source, model, options, [](size_t) {});
}

Documents read_documents(const std::string& path, const TextModel& model, const ReadOptions& options) {
  const MappedFile file(path);
  const std::string_view bytes(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  return read(bytes, path, model, options, [&](size_t done) { file.drop(0, done); });
}

}  // namespace tenon::trainer
