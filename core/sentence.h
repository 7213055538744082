// Foreign words, made fit to be shown.
#pragma once

#include <string>
#include <string_view>

namespace tenon {

// One line of valid UTF-8 without control characters, at most 2000 bytes.
std::string clean_sentence(std::string_view text);

}  // namespace tenon
