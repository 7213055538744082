// A class becomes a plugin that edits models (org.tenon.edits/1): the extension and the quantizer table that goes with it, whose codec refuses.
//
//   struct Technique : sdk::EditsModels {
//     Technique(const tn_host*, const Hypers&);
//     void supports(const tn_query&);
//     void text(tn_edit_text&);
//     void plan_edits(const tn_edit_model&, EditList&);
//     void estimate_matrix(const tn_edit_matrix&, tn_estimate&);
//     void matrix(const tn_edit_ops&, const tn_edit_matrix&, tn_tensor& out);
//   };
#pragma once

#include "sdk/codec.h"
#include "sdk/quantizer.h"
#include "tenon/edits.h"

namespace tenon::sdk {

// The edits of a plan on their way to the host.
class EditList {
 public:
  EditList(const tn_edit_model& model, const tn_edit_sink& sink) : model_(model), sink_(sink) {}

  // A matrix [rows, columns], which may need a statistic of a boundary (TN_EDIT_STATISTIC_*); its id.
  uint32_t matrix(int64_t rows, int64_t columns, uint32_t statistic = TN_EDIT_STATISTIC_NONE, int64_t boundary = -1) {
    const tn_edit_matrix m{sizeof m, matrices_, statistic, static_cast<int32_t>(boundary), rows, columns};
    check(sink_.matrix(sink_.self, &m));
    return matrices_++;
  }
  void untie() { edit(TN_EDIT_UNTIE, TN_ROLE_UNDEFINED, -1); }
  void fold_norm(int64_t boundary) { edit(TN_EDIT_FOLD_NORM, TN_ROLE_UNDEFINED, boundary); }
  void norm_count(int64_t boundary, int64_t count) { edit(TN_EDIT_NORM_COUNT, TN_ROLE_UNDEFINED, boundary, 0, count); }
  void input(uint32_t role, int64_t place, uint32_t matrix) { edit(TN_EDIT_INPUT, role, place, matrix); }
  void output(uint32_t role, int64_t place, uint32_t matrix) { edit(TN_EDIT_OUTPUT, role, place, matrix); }

  // The residual stream at a boundary in the basis of a matrix's columns: what makes it, what reads it, and the maps of what passes by. maps
  // false: those stay the identity, since the same orthogonal matrix is the basis everywhere.
  void change_basis(int64_t boundary, uint32_t matrix, bool maps = true) {
    const int64_t block = boundary / 2, last = 2 * model_.layers;
    if (boundary == 0) {
      output(TN_ROLE_EMBEDDING, -1, matrix);
    } else {
      output(boundary % 2 == 1 ? TN_ROLE_O : TN_ROLE_DOWN, (boundary - 1) / 2, matrix);
      if (maps) output(TN_ROLE_OTHER, boundary - 1, matrix);
    }
    if (boundary == last) return input(TN_ROLE_HEAD, -1, matrix);
    if (boundary % 2 == 0)
      input(TN_ROLE_Q, block, matrix), input(TN_ROLE_K, block, matrix), input(TN_ROLE_V, block, matrix);
    else
      input(TN_ROLE_GATE, block, matrix), input(TN_ROLE_UP, block, matrix);
    if (maps) input(TN_ROLE_OTHER, boundary, matrix);
  }

 private:
  void edit(uint32_t kind, uint32_t role, int64_t place, uint32_t matrix = 0, int64_t count = 0) {
    const tn_edit e{sizeof e, kind, role, static_cast<int32_t>(place), matrix, 0, count};
    check(sink_.edit(sink_.self, &e));
  }
  const tn_edit_model& model_;
  const tn_edit_sink& sink_;
  uint32_t matrices_ = 0;
};

// The codec that such a plugin is not.
struct EditsModels {
  static constexpr uint32_t kSites = TN_SITE_MODEL;
  [[noreturn]] void plan(const tn_target& t, const tn_component_sink&) const { refuse(t); }
  [[noreturn]] void estimate(const tn_device_api*, tn_device*, const tn_target& t, uint32_t, int64_t, tn_estimate&) const { refuse(t); }
  [[noreturn]] void encode(const tn_exec*, const tn_target& t, const tn_tensor&, tn_tensor* const*, const tn_rng*) const { refuse(t); }
  [[noreturn]] void decode(const tn_exec*, const tn_target& t, tn_tensor* const*, int64_t, int64_t, tn_tensor&) const { refuse(t); }

 private:
  [[noreturn]] static void refuse(const tn_target& t) {
    fail(TN_E_UNSUPPORTED, name_of(t) + " cannot be coded by a plugin that edits whole models, through " TN_EXT_EDITS);
  }
};

template <class T>
struct EditsThunks {
  using Holder = typename QuantizerThunks<T>::Holder;
  static Holder* of(tn_quantizer* self) { return QuantizerThunks<T>::of(self); }

  static int32_t text(tn_quantizer* self, tn_edit_text* out) {
    return guard(of(self)->host, [&] { of(self)->codec.text(*out); });
  }
  static int32_t plan(tn_quantizer* self, const tn_edit_model* model, const tn_edit_sink* sink) {
    return guard(of(self)->host, [&] {
      EditList list(*model, *sink);
      of(self)->codec.plan_edits(*model, list);
    });
  }
  static int32_t estimate(tn_quantizer* self, const tn_device_api*, tn_device*, const tn_edit_matrix* matrix, tn_estimate* out) {
    return guard(of(self)->host, [&] { of(self)->codec.estimate_matrix(*matrix, *out); });
  }
  static int32_t matrix(tn_quantizer* self, const tn_edit_ops* ops, const tn_edit_matrix* matrix, tn_tensor* out) {
    return guard(of(self)->host, [&] { of(self)->codec.matrix(*ops, *matrix, *out); });
  }
};

template <class T>
constexpr tn_edits edits_table() {
  using F = EditsThunks<T>;
  return {TN_SIZE_TO(tn_edits, matrix), 0, F::text, F::plan, F::estimate, F::matrix};
}

}  // namespace tenon::sdk
