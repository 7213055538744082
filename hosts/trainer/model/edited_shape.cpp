#include "hosts/trainer/model/edited_shape.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/json.h"
#include "hosts/trainer/model/config.h"

namespace tenon::trainer {
namespace {

constexpr int64_t kMaxWidth = 1 << 20;

// The array under `key`, of n entries that `accepts` lets pass.
template <class T, class Accepts>
std::vector<T> list(const Json& j, const char* key, int64_t n, const std::string& what, Accepts&& accepts) {
  const Json* a = find_array(j, key, what);
  if (!a || static_cast<int64_t>(a->size()) != n)
    throw Error(TN_E_FORMAT, what + ": " + kEditsKey + "." + key + " must be a list of " + std::to_string(n) + " entries; the file is damaged");
  std::vector<T> out;
  for (const Json& e : *a) {
    if (!accepts(e)) throw Error(TN_E_FORMAT, what + ": " + e.dump().substr(0, 40) + " cannot stand in " + kEditsKey + "." + key + "; the file is damaged");
    out.push_back(e.get<T>());
  }
  return out;
}

}  // namespace

EditedShape unedited_shape(const ModelConfig& c) {
  const auto blocks = static_cast<size_t>(c.layers);
  EditedShape s;
  s.widths.assign(2 * blocks + 1, c.hidden), s.norm_eps.assign(2 * blocks + 1, c.norm_eps), s.maps.assign(2 * blocks, false);
  s.heads.assign(blocks, c.heads), s.kv_heads.assign(blocks, c.kv_heads), s.intermediate.assign(blocks, c.intermediate);
  return s;
}

Json shape_to_json(const EditedShape& s) {
  return {{"widths", s.widths}, {"norm_eps", s.norm_eps}, {"residual_maps", s.maps}, {"heads", s.heads}, {"kv_heads", s.kv_heads}, {"intermediate", s.intermediate}};
}

EditedShape parse_edited_shape(const Json& j, const ModelConfig& c, const std::string& what) {
  const auto width = [](const Json& e) { return e.is_number_integer() && e >= 1 && e <= kMaxWidth; };
  EditedShape s;
  s.widths = list<int64_t>(j, "widths", 2 * c.layers + 1, what, width);
  s.norm_eps = list<double>(j, "norm_eps", 2 * c.layers + 1, what, [](const Json& e) { return e.is_number() && e >= 0 && e <= 1; });
  s.maps = list<bool>(j, "residual_maps", 2 * c.layers, what, [](const Json& e) { return e.is_boolean(); });
  s.heads = list<int64_t>(j, "heads", c.layers, what, width);
  s.kv_heads = list<int64_t>(j, "kv_heads", c.layers, what, width);
  s.intermediate = list<int64_t>(j, "intermediate", c.layers, what, width);
  for (size_t b = 0; b + 1 < s.widths.size(); ++b)
    if (s.widths[b] != s.widths[b + 1] && !s.maps[b])
      throw Error(TN_E_FORMAT, what + ": " + kEditsKey + " goes from a width of " + std::to_string(s.widths[b]) + " to " + std::to_string(s.widths[b + 1]) +
                                   " at sub-layer " + std::to_string(b) + " without a residual map; the file is damaged");
  for (size_t l = 0; l < s.heads.size(); ++l)
    if (s.heads[l] % s.kv_heads[l] != 0)
      throw Error(TN_E_FORMAT, what + ": " + std::to_string(s.heads[l]) + " heads of block " + std::to_string(l) + " in " + kEditsKey +
                                   " are no multiple of its " + std::to_string(s.kv_heads[l]) + " key-value heads; the file is damaged");
  if (c.tied && s.widths.front() != s.widths.back())
    throw Error(TN_E_FORMAT, what + ": tie_word_embeddings is true, but " + kEditsKey + " gives embedding and head different widths; the file is damaged");
  return s;
}

}  // namespace tenon::trainer
