// Whether an object's machine code runs on a card. `built` is what the build compiled for, with commas between: "80,90", with PTX of the last; "gfx90a,gfx1030".
#pragma once

#include <algorithm>
#include <cstdlib>
#include <string>
#include <string_view>

namespace tenon::gpu {

// Calls f with each name of the list until it answers true; whether it did.
template <class F>
bool any_of_list(std::string_view list, F f) {
  for (size_t begin = 0; begin < list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    if (f(list.substr(begin, end - begin), end == list.size())) return true;
    begin = end + 1;
  }
  return false;
}

// Machine code runs on later cards of its generation, PTX on all later ones.
inline bool cuda_code_runs(std::string_view built, int capability) {
  return any_of_list(built, [&](std::string_view name, bool last) {
    const int of = std::atoi(std::string(name).c_str());
    return of > 0 && of <= capability && (last || of / 10 == capability / 10);
  });
}
// A card's name may go on with features: "gfx90a:sramecc+:xnack-".
inline bool hip_code_runs(std::string_view built, std::string_view card) {
  return any_of_list(built, [&](std::string_view name, bool) { return name == card.substr(0, card.find(':')); });
}

}  // namespace tenon::gpu
