// Keeps the question that it is asked where every thread can change it.
#include <sched.h>

#include "plain.h"

namespace tenon::gallery {
namespace {

tn_query asked;

struct Broken : Plain {
  using Plain::Plain;
  void supports(const tn_query& q) {
    std::memcpy(&asked, &q, sizeof asked);
    sched_yield();
    const tn_query now = asked;
    Plain::supports(now);
  }
};

constexpr tn_optimizer_api kApi = optimizer_api<Broken>();

}  // namespace
}  // namespace tenon::gallery

TENON_EXHIBIT(tenon::gallery::kApi)
