#include "core/plugins/kinds.h"

#include <algorithm>
#include <array>
#include <charconv>

namespace tenon {
namespace {

constexpr std::array<std::string_view, 6> kKinds = {"?", "device", "optimizer", "adapter", "quantizer", "attention"};

bool digit(char c) {
  return c >= '0' && c <= '9';
}
bool id_char(char c) {
  return (c >= 'a' && c <= 'z') || digit(c) || c == '.' || c == '-' || c == '_';
}

struct Version {
  std::array<uint32_t, 3> number{};
  std::string_view tag;
};

bool parse_version(std::string_view text, Version& out) {
  if (text.size() > 64) return false;
  const char* at = text.data();
  const char* const end = at + text.size();
  for (int i = 0; i < 3; ++i) {
    if (i > 0 && (at == end || *at++ != '.')) return false;
    if (at == end || !digit(*at)) return false;
    const auto [next, error] = std::from_chars(at, end, out.number[i]);
    if (error != std::errc() || out.number[i] >= 1'000'000'000) return false;
    at = next;
  }
  if (at == end) return true;
  out.tag = std::string_view(at + 1, end);
  const auto ok = [](char c) { return id_char(c) || (c >= 'A' && c <= 'Z'); };
  return *at == '-' && !out.tag.empty() && std::all_of(out.tag.begin(), out.tag.end(), ok);
}

}  // namespace

std::string_view kind_name(uint32_t kind) noexcept {
  return kind < kKinds.size() ? kKinds[kind] : kKinds[0];
}

uint32_t kind_from_name(std::string_view name) noexcept {
  for (uint32_t kind = 1; kind < kKinds.size(); ++kind) {
    if (kKinds[kind] == name) return kind;
  }
  return TN_KIND_UNDEFINED;
}

bool valid_id(std::string_view id) noexcept {
  return !id.empty() && id.size() <= 100 && id[0] != '.' && id[0] != '-' && id[0] != '_' &&
         std::all_of(id.begin(), id.end(), id_char);
}

bool valid_version(std::string_view version) noexcept {
  Version parsed;
  return parse_version(version, parsed);
}

std::string version_key(std::string_view version) {
  Version parsed;
  parse_version(version, parsed);
  std::string key;
  for (const uint32_t number : parsed.number) {
    const std::string digits = std::to_string(number);
    key += std::string(10 - digits.size(), '0') + digits + '.';
  }
  return parsed.tag.empty() ? key + '~' : key + std::string(parsed.tag);  // '~' sorts after every character of a tag
}

std::string abi_text(uint32_t major, uint32_t minor) {
  return std::to_string(major) + '.' + std::to_string(minor);
}

}  // namespace tenon
