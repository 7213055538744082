// Arbitrary bytes as config.json of a model: refused with one Error of one line, or a shape whose sizes a model can be built from.
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "core/error.h"
#include "core/files/json.h"
#include "hosts/trainer/model/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const tenon::Json json = tenon::parse_json({reinterpret_cast<const char*>(data), size}, "config.json");
    const tenon::trainer::ModelConfig c = tenon::trainer::parse_config(json, "config.json");
    const bool sane = c.hidden > 0 && c.layers > 0 && c.heads > 0 && c.kv_heads > 0 && c.heads % c.kv_heads == 0 && c.head_dim > 0 && c.vocab > 0 &&
                      c.intermediate > 0 && c.window.size() == static_cast<size_t>(c.layers) && c.parameters() > 0;
    if (!sane) std::abort();
  } catch (const tenon::Error& e) {
    if (std::string(e.what()).find('\n') != std::string::npos) std::abort();
  }
  return 0;
}
