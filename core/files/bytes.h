// Views of raw bytes, and names from files made fit for an error sentence.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace tenon {

using ByteSpan = std::span<const std::byte>;

inline ByteSpan as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

inline std::string_view as_text(ByteSpan bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// `text` in single quotes for a message: control characters and broken UTF-8 become "?", and a long text is cut. Names
// in a file are untrusted and must not be able to break the one-line form of an error.
std::string quote_name(std::string_view text);

}  // namespace tenon
