// Specs from a command line or a recipe end in a value whose canonical form reads back, or in one Error of one line.
#include <cstdlib>
#include <limits>
#include <string>

#include "core/error.h"
#include "core/plugins/spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  static const tenon::Schema kSchema = {{TN_TYPE_INT, "rank", "128", 1, kInfinity, 0, {}, "", ""},
                                        {TN_TYPE_FLOAT, "scale", "0.25", -kInfinity, kInfinity, 0, {}, "", ""},
                                        {TN_TYPE_BOOL, "flag", "false", 0, 0, 0, {}, "", ""},
                                        {TN_TYPE_CHOICE, "side", "std", 0, 0, 0, {"std", "left"}, "", ""},
                                        {TN_TYPE_STRING, "path", "", 0, 0, 0, {}, "", ""}};
  try {
    const tenon::Spec spec = tenon::parse_spec({reinterpret_cast<const char*>(data), size}, kSchema);
    if (tenon::parse_spec(tenon::canonical(spec), kSchema) != spec) std::abort();
    if (tenon::parse_spec(tenon::short_form(spec), kSchema) != spec) std::abort();
  } catch (const tenon::Error& e) {
    if (std::string(e.what()).find('\n') != std::string::npos) std::abort();
  }
  return 0;
}
