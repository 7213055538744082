// Template sources, rendered over a conversation with every kind of value.
#include "core/error.h"
#include "hosts/trainer/text/chat_template.h"

using tenon::trainer::ChatTemplate;
using tenon::trainer::OrderedJson;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const OrderedJson messages = OrderedJson::parse(
      R"([{"role":"user","content":"Hi ü"},{"role":"assistant","content":null,"x":[1,2.5,true,{"a":[]}]}])");
  try {
    ChatTemplate(std::string_view(reinterpret_cast<const char*>(data), size), "model").render_answers(messages, {});
  } catch (const tenon::Error&) {
  }
  return 0;
}
