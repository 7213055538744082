// Edits a loaded model in place, as a plan says (org.tenon.edits/1).
#pragma once

#include <functional>
#include <map>
#include <vector>

#include "hosts/trainer/model/edit_plan.h"
#include "hosts/trainer/model/model.h"

namespace tenon::trainer {

class ModelEditor {
 public:
  // rows of the weight (role, place) as it is now, in out's type.
  using ReadRows = std::function<void(uint32_t role, int64_t place, int64_t begin, int64_t end, const Tensor& out)>;
  // Fills out [rows, columns] in f32. statistic: empty where the matrix wants none.
  using MakeMatrix = std::function<void(const tn_edit_matrix& matrix, const Tensor& statistic, int64_t tokens, const ReadRows& read, const Tensor& out)>;

  // The model holds dense f32 weights, no adapters, and is neither trained nor decoding. sequences: of one length, or none.
  ModelEditor(Engine& engine, Model& model, const EditPlan& plan, const std::vector<std::vector<int32_t>>& sequences);

  // Afterwards the model is the edited one, its configuration included.
  void run(const MakeMatrix& make, const std::function<void(size_t, size_t)>& progress);

 private:
  Linear& linear(uint32_t role, int64_t place);
  const Tensor& value(uint32_t role, int64_t place);
  void apply(const tn_edit& edit, const MakeMatrix& make);
  void untie();
  void fold(int64_t boundary);
  void count(int64_t boundary, int64_t n);
  void multiply(const tn_edit& edit, const Tensor& matrix);
  std::vector<Linear*> behind_norm(int64_t boundary);
  Parameter& norm(int64_t boundary);
  void settle(TransformerBlock& block);
  void settle_norm(Parameter& gain, int64_t width);
  void settle_heads(TransformerBlock& block);
  const Tensor& matrix(uint32_t id, const MakeMatrix& make);
  void advance(int64_t boundary);
  Tensor gram(const tn_edit_matrix& matrix);

  Engine& engine_;
  Model& model_;
  const EditPlan& plan_;
  const std::vector<std::vector<int32_t>>& sequences_;
  std::map<uint32_t, Tensor> matrices_;  // computed so far, while an edit needs them
  std::map<uint32_t, size_t> last_use_;  // of a matrix: the edit after which it is let go
  Pass pass_;
  std::vector<Tensor> x_;  // the residual stream of each sequence at boundary `reached_`
  int64_t reached_ = -1;
};

}  // namespace tenon::trainer
