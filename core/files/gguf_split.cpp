// Models split over several files, as "NAME-00001-of-00003.gguf": split.no counts from 0, split.count is the number of
// files, split.tensors.count that of all tensors. The first file has the model's metadata.
#include <algorithm>
#include <cstdio>

#include "core/error.h"
#include "core/files/gguf.h"

namespace tenon {
namespace {

constexpr char kCount[] = "split.count", kNumber[] = "split.no", kTensors[] = "split.tensors.count";
constexpr int64_t kMostParts = 65535;

// The name of part `number` (from 0) of `count`, next to `path`; empty when the name of `path` does not end as a
// part's does.
std::string part_path(const std::string& path, int64_t number, int64_t count) {
  constexpr size_t kDigits = 5;
  const std::string_view tail = ".gguf", of = "-of-";
  const size_t length = 1 + kDigits + of.size() + kDigits + tail.size();
  if (path.size() < length || !path.ends_with(tail)) return {};
  const std::string_view end = std::string_view(path).substr(path.size() - length);
  const auto digits = [&](size_t at) {
    const auto number = end.substr(at, kDigits);
    return std::all_of(number.begin(), number.end(), [](char c) { return c >= '0' && c <= '9'; });
  };
  if (end[0] != '-' || !digits(1) || end.substr(1 + kDigits, of.size()) != of || !digits(1 + kDigits + of.size()))
    return {};
  char name[40];
  std::snprintf(name, sizeof name, "-%05lld-of-%05lld.gguf", static_cast<long long>(number + 1),
                static_cast<long long>(count));
  return path.substr(0, path.size() - length) + name;
}

int64_t part_number(const GgufFile& file, int64_t count) {
  return file.get_int(kNumber, 0, count - 1);
}

}  // namespace

GgufFile GgufFile::open(const std::string& path) {
  MappedFile mapping(path);
  GgufFile file = parse(mapping.bytes(), path);
  file.mappings_.push_back(std::move(mapping));  // The views hold: a mapping keeps its address when it is moved.
  const int64_t count = file.find_int(kCount, 0, kMostParts).value_or(0);
  if (count <= 1) return file;
  if (part_number(file, count) != 0) {
    const std::string first = part_path(path, 0, count);
    if (first.empty() || first == path)
      throw Error(TN_E_FORMAT, path + ": the file is part " + std::to_string(part_number(file, count) + 1) + " of " +
                                   std::to_string(count) +
                                   " but is not named so; name the parts MODEL-00001-of-0000N.gguf and so on");
    return open(first);
  }
  file.add_parts();
  return file;
}

void GgufFile::add_parts() {
  const int64_t count = get_int(kCount, 2, kMostParts);
  for (int64_t number = 1; number < count; ++number) {
    const std::string path = part_path(path_, number, count);
    if (path.empty())
      throw Error(TN_E_FORMAT, path_ + ": the file is the first of " + std::to_string(count) +
                                   " parts but is not named so; name the parts MODEL-00001-of-0000N.gguf and so on");
    MappedFile mapping(path);
    GgufFile part = parse(mapping.bytes(), path);
    if (part.get_int(kCount, 0, kMostParts) != count || part_number(part, count) != number)
      throw Error(TN_E_FORMAT, path + ": the file is not part " + std::to_string(number + 1) + " of " +
                                   std::to_string(count) + " of this model; download the parts again");
    for (GgufTensor& tensor : part.tensors_) {
      if (!names_.emplace(tensor.name, tensors_.size()).second)
        throw Error(TN_E_FORMAT, path + ": tensor " + quote_name(tensor.name) +
                                     " is also in an earlier part; download the parts again");
      tensor.part = static_cast<uint32_t>(number);
      tensors_.push_back(std::move(tensor));
    }
    bytes_.push_back(mapping.bytes());
    mappings_.push_back(std::move(mapping));
  }
  const auto total = find_int(kTensors, 0, INT64_MAX);
  if (total && static_cast<uint64_t>(*total) != tensors_.size())
    throw Error(TN_E_FORMAT, path_ + ": the parts hold " + std::to_string(tensors_.size()) + " tensors where " +
                                 std::to_string(*total) + " are due; download the parts again");
}

}  // namespace tenon
