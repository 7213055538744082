// What the trainer itself brings into a mix: its memory features, as rows of the catalog's relation.
#pragma once

#include "core/catalog/catalog.h"

namespace tenon::trainer {

// A catalog with the trainer's features registered. No stores: the default ones.
Catalog open_catalog(std::vector<std::string> stores = {});

}  // namespace tenon::trainer
