// Arbitrary bytes as JSON: refused with an Error, or a value whose own text parses to the same value.
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const tenon::Json value = tenon::parse_json(text, "input");
    if (tenon::parse_json(value.dump(), "copy") != value) std::abort();
    if (!value.is_object()) return 0;
    for (const auto& [key, item] : value.items()) {
      try {
        tenon::find_int(value, key, 0, 1 << 20, "input");
        tenon::find_double(value, key, -1, 1, "input");
      } catch (const tenon::Error&) {
      }
    }
  } catch (const tenon::Error&) {
  }
  return 0;
}
