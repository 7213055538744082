// What a plugin wants of a model (org.tenon.edits/1), checked before anything is computed: the edits one after the other on shapes alone.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "hosts/trainer/model/config.h"
#include "tenon/edits.h"

namespace tenon::trainer {

// An instance of a plugin that edits models.
struct Editor {
  const tn_edits* edits = nullptr;
  tn_quantizer* self = nullptr;
  std::string name;       // its spec
  tn_edit_text text{};    // what its statistics want
};

struct EditPlan {
  std::vector<tn_edit_matrix> matrices;  // by id
  std::vector<tn_edit> edits;
  ModelConfig edited;  // of the model that they make
};

// Asks the plugin. Throws Error, naming the edit, for a plan that cannot be carried out on this model.
EditPlan plan_edits(const ModelConfig& config, const Editor& editor);

// The boundary of the residual stream that an edit's weight reads or makes; −1 where that is inside a sub-layer.
int64_t boundary_read(const tn_edit& edit, int64_t layers);
int64_t boundary_made(const tn_edit& edit);

}  // namespace tenon::trainer
