#include "hosts/trainer/run/edits.h"

#include <filesystem>

#include "core/error.h"
#include "core/files/atomic_folder.h"
#include "core/plugins/answer.h"
#include "hosts/trainer/model/model_editor.h"
#include "hosts/trainer/run/export.h"

namespace tenon::trainer {
namespace {

constexpr uint32_t kEditStream = 0x45444954;  // random stream of the matrices of edits

// The functions of tn_edit_ops.
struct Reading {
  const ModelEditor::ReadRows* read;

  static int32_t rows(void* self, uint32_t role, int32_t place, int64_t begin, int64_t end, tn_tensor* out) {
    return answer([&] { (*static_cast<Reading*>(self)->read)(role, place, begin, end, Tensor::borrowed(*out)); });
  }
};

}  // namespace

void edit_model(Engine& engine, Model& model, const Techniques& techniques, const SessionOptions& options) {
  const Editor& editor = *techniques.editor;
  if (!(engine.compute() == kF32))
    throw Error(TN_E_UNSUPPORTED, editor.name + " edits weights in f32, and --dtype asks for another type; drop --dtype, or write the model with `tenon quantize --dtype bf16` first");
  if (options.train) throw Error(TN_E_CONFLICT, editor.name + " makes another model out of this one; write that with `tenon quantize`, then train it");
  const EditPlan plan = plan_edits(model.config(), editor);
  std::vector<std::vector<int32_t>> text = options.calibration;
  if (text.empty() && engine.dry() && editor.text.sequences > 0)
    text.assign(static_cast<size_t>(editor.text.sequences), std::vector<int32_t>(static_cast<size_t>(editor.text.length)));
  if (text.empty() && editor.text.sequences > 0)
    throw Error(TN_E_ARGUMENT, "--quantizer " + editor.name + " edits the model with text in view; give it some with --calibration FILE");
  ModelEditor(engine, model, plan, text)
      .run(
          [&](const tn_edit_matrix& matrix, const Tensor& statistic, int64_t tokens, const ModelEditor::ReadRows& read, const Tensor& out) {
            tn_estimate e{sizeof(tn_estimate)};
            check(editor.edits->estimate(editor.self, engine.api(), engine.device(), &matrix, &e), "planning an edit");
            engine.with_workspace(e, "edit", [&](const tn_exec* exec) {
              const Tensor::Ref of = statistic.ref();
              const tn_rng rng{options.seed, matrix.id, kEditStream};
              Reading reading{&read};
              const tn_edit_ops ops{sizeof(tn_edit_ops), 0, &reading, exec, statistic ? &of.t : nullptr, tokens, &rng, Reading::rows};
              return editor.edits->matrix(editor.self, &ops, &matrix, out.ref());
            });
          },
          options.calibrating);
}

uint64_t write_edited(const std::string& target, Session& session, const ModelSource& source, tn_dtype dtype) {
  AtomicFolder folder(target);
  write_model(folder.path(), session, source, dtype, false);
  uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) bytes += entry.file_size();
  folder.commit();
  return bytes;
}

}  // namespace tenon::trainer
