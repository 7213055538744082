// Ends the process when it does not like a parameter.
#include <cstdlib>

#include "plain.h"

namespace tenon::gallery {
namespace {

struct Broken : Plain {
  Broken(const tn_host* host, const Hypers& hypers) : Plain(host, hypers) {
    if (hypers.real("momentum") == 0) std::exit(3);
  }
};

constexpr tn_optimizer_api kApi = optimizer_api<Broken>();

}  // namespace
}  // namespace tenon::gallery

TENON_EXHIBIT(tenon::gallery::kApi)
