// JSON lines of data, and the windows cut from them.
#include "core/error.h"
#include "hosts/trainer/text/data/dataset.h"

using namespace tenon::trainer;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const TextModel model = [] {
    TextModel m{
        Tokenizer::from_json(
            R"({"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"<unk>":3},"merges":["a b"],"unk_token":"<unk>"}})",
            "t"),
        {},
        {},
        3,
        {},
        "",
        "<unk>"};
    m.chat_template.emplace(
        "{% for m in messages %}{{ m.role + m.content }}{% endfor %}{% if add_generation_prompt %}a{% endif %}", "t");
    return m;
  }();
  try {
    WindowOptions options;
    options.length = 4;
    options.pack = size % 2 == 0;
    options.isolate_documents = true;
    const Dataset dataset(
        parse_documents(std::string_view(reinterpret_cast<const char*>(data), size), "data.jsonl", model), options);
    for (uint64_t i = 0; i < dataset.size(); ++i) dataset.batch({i});
  } catch (const tenon::Error&) {
  }
  return 0;
}
