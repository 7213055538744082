// Models that a plugin makes out of others (org.tenon.edits/1).
#pragma once

#include "hosts/trainer/model/source.h"
#include "hosts/trainer/run/session.h"

namespace tenon::trainer {

// Carries out what the techniques' editor plans on a loaded model, with the calibration text of the options. An empty text stands, on a dry
// engine, for all that the plugin asks for.
void edit_model(Engine& engine, Model& model, const Techniques& techniques, const SessionOptions& options);

// Writes an edited session's model as a folder that this host reads like any: atomically, config.json stating the shape. Returns its bytes.
uint64_t write_edited(const std::string& folder, Session& session, const ModelSource& source, tn_dtype dtype);

}  // namespace tenon::trainer
