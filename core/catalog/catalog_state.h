// What the parts of Catalog share.
#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "core/catalog/catalog.h"
#include "core/catalog/sqlite.h"

namespace tenon {

struct Catalog::State {
  std::vector<std::string> stores;
  Database db;  // the stack, see open_stack
  mutable std::mutex mutex;
  std::vector<Feature> features;

  // Where the plugin that counts is, or store 0 where it is not installed.
  struct Place {
    int64_t store = 0;
    std::string version, kind, name, folder, manifest;  // folder: absolute
  };
  Place find(std::string_view id) const;
  // As find, but throws TN_E_NOT_FOUND with the nearest id of any kind.
  Place get(std::string_view id) const;
};

}  // namespace tenon
