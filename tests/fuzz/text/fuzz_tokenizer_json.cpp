// tokenizer.json; one that loads must encode and decode any text, and be refused by GGUF or become a vocabulary that loads.
#include <string>
#include <vector>

#include "core/error.h"
#include "hosts/trainer/text/tokenizer/gguf_from_json.h"
#include "hosts/trainer/text/tokenizer/tokenizer.h"

using tenon::trainer::Tokenizer;

namespace {

void as_gguf(std::string_view bytes) {
  std::vector<std::string> notes;
  try {
    const tenon::trainer::GgufVocabulary v = tenon::trainer::gguf_vocabulary_of(bytes, "tokenizer.json", notes);
    tenon::GgufMetadata metadata;
    put_gguf_vocabulary(v, metadata);
    Tokenizer::from_gguf(v, "m.gguf").encode("Hello  wörld 123");
  } catch (const tenon::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const Tokenizer tokenizer = Tokenizer::from_json(bytes, "tokenizer.json");
    for (const char* text : {"Hello  wörld 123\n\tI'm <s>ok</s> ▁x\r\n", "日本 👍🏽\xE2\x80\x8D", ""})
      tokenizer.decode(tokenizer.encode(text, true));
    as_gguf(bytes);
  } catch (const tenon::Error&) {
  }
  return 0;
}
