// tokenizer.json; one that loads must encode and decode any text.
#include "core/error.h"
#include "hosts/trainer/text/tokenizer/tokenizer.h"

using tenon::trainer::Tokenizer;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const Tokenizer tokenizer = Tokenizer::from_json(bytes, "tokenizer.json");
    for (const char* text : {"Hello  wörld 123\n\tI'm <s>ok</s> ▁x\r\n", "日本 👍🏽\xE2\x80\x8D", ""})
      tokenizer.decode(tokenizer.encode(text, true));
  } catch (const tenon::Error&) {
  }
  return 0;
}
