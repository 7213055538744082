// What the trainer itself brings into a mix: its memory features, as rows of the catalog's relation.
#pragma once

#include "core/catalog/catalog.h"

namespace tenon::trainer {

// The default catalog with the trainer's features registered.
Catalog open_catalog();

}  // namespace tenon::trainer
