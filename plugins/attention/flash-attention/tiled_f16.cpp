// The kernels on matrix units for f16.
#include "tiled_launch.h"

namespace tenon::flash {

template <>
void forward_of<sdk::f16>(const tn_exec* exec, const Call& c, const std::vector<sdk::Segment>& segments, int64_t* first) {
  launch_queries<TiledForward, sdk::f16>(exec, c, segments, first);
}
template <>
void query_gradient_of<sdk::f16>(const tn_exec* exec, const Call& c, const std::vector<sdk::Segment>& segments, int64_t* first) {
  launch_queries<TiledQueryGradient, sdk::f16>(exec, c, segments, first);
}
template <>
void key_gradient_of<sdk::f16>(const tn_exec* exec, const Call& c, const std::vector<sdk::Segment>& segments, int64_t* first) {
  launch_keys<sdk::f16>(exec, c, segments, first);
}

}  // namespace tenon::flash
