// SliceGPT (Ashkboos et al. 2024) as model edits: norms are folded away, every boundary of the residual stream gets a basis of its own, and the
// directions in which text moves least are deleted. RMSNorm without a gain does not see a rotation, so without deletion nothing changes.
#include "quantizers/slicegpt/basis.h"
#include "sdk/edits.h"
#include "sdk/workspace.h"

namespace tenon::slicegpt {
namespace {

class Technique : public sdk::EditsModels {
 public:
  Technique(const tn_host*, const sdk::Hypers& h)
      : sparsity_(h.real("sparsity")),
        interval_(h.integer("round_interval")),
        samples_(h.integer("samples")),
        length_(h.integer("sample_length")),
        slice_head_(h.flag("slice_head")),
        random_axes_(h.text("final_orientation") == "random"),
        basis_(h.text("basis") == "pca" ? TN_EDIT_STATISTIC_GRAM : h.text("basis") == "pca_normalized" ? TN_EDIT_STATISTIC_NORMALIZED_GRAM : TN_EDIT_STATISTIC_NONE) {}

  void supports(const tn_query& q) const { sdk::require_floats(q, "slicegpt"); }

  void text(tn_edit_text& out) const {
    out.sequences = basis_ == TN_EDIT_STATISTIC_NONE ? 0 : samples_, out.length = length_;
  }

  void plan_edits(const tn_edit_model& model, sdk::EditList& list) const {
    const int64_t n = model.hidden, last = 2 * model.layers;
    if (model.flags & TN_EDIT_MODEL_TIED) list.untie();  // the two ends get different bases
    for (int64_t b = 0; b <= last; ++b) list.fold_norm(b);
    for (int64_t b = 0; b <= last; ++b) {
      const int64_t kept = b == last && !slice_head_ ? n : width(n);
      list.change_basis(b, list.matrix(n, kept, basis_, basis_ == TN_EDIT_STATISTIC_NONE ? -1 : b));
      if (kept != n) list.norm_count(b, n);
    }
  }

  void estimate_matrix(const tn_edit_matrix& m, tn_estimate& out) const {
    sdk::Workspace w;
    Scratch(w, m);
    const double n = static_cast<double>(m.rows);
    sdk::set_estimate(out, 9 * n * n * n, 8 * n * n, 0, w.peak());
  }

  void matrix(const tn_edit_ops& ops, const tn_edit_matrix& m, tn_tensor& out) const {
    float* const to = sdk::contiguous<float>(&out, "slicegpt: a basis");
    if (sdk::count(out) != m.rows * m.columns || m.columns > m.rows) sdk::fail(TN_E_ARGUMENT, "slicegpt: a basis is passed in the shape that was planned");
    sdk::Workspace w(*ops.exec);
    const Scratch there(w, m);
    HostScratch s(ops.exec, there, m);
    if (m.statistic == TN_EDIT_STATISTIC_NONE) {
      random_directions(*ops.rng, m.rows, m.columns, s.rows.data());
    } else {
      if (!ops.statistic || ops.tokens <= 0) sdk::fail(TN_E_ARGUMENT, "slicegpt: no calibration text was seen; give it some");
      float* const given = sdk::contiguous<float>(ops.statistic, "slicegpt: the statistic");
      if (sdk::count(*ops.statistic) != m.rows * m.rows) sdk::fail(TN_E_ARGUMENT, "slicegpt: the statistic is a square of the stream's width");
      sdk::OnHost<float> gram(ops.exec, given, m.rows * m.rows);
      if (!principal_directions(gram.data(), m.rows, m.columns, s.values.data(), s.rows.data(), s.directions.data(), s.order.data()))
        sdk::fail(TN_E_NUMERIC, "slicegpt: the hidden states at boundary " + std::to_string(m.boundary) + " hold NaN or Inf");
    }
    if (random_axes_) {
      random_directions(*ops.rng, m.columns, m.columns, s.turn.data());
      turn_within(s.turn.data(), m.columns, m.rows, s.rows.data(), s.values.data());
    }
    sdk::OnHost<float> basis = sdk::OnHost<float>::unread(ops.exec, to, m.rows * m.columns);
    for (int64_t i = 0; i < m.rows; ++i)
      for (int64_t j = 0; j < m.columns; ++j) basis[i * m.columns + j] = static_cast<float>(s.rows[j * m.rows + i]);
    basis.put_back();
  }

 private:
  // Everything is the host's; on a GPU none of it is workspace.
  struct Scratch {
    double *values = nullptr, *rows = nullptr, *turn = nullptr, *directions = nullptr;
    int64_t* order = nullptr;
    Scratch(sdk::Workspace& w, const tn_edit_matrix& m) {
      if (!sdk::kHostReads) return;
      values = w.take<double>(m.columns), rows = w.take<double>(m.columns * m.rows), turn = w.take<double>(m.columns * m.columns);
      directions = w.take<double>(directions_scratch(m.rows)), order = w.take<int64_t>(m.rows);
    }
  };
  struct HostScratch {
    sdk::OnHost<double> values, rows, turn, directions;
    sdk::OnHost<int64_t> order;
    HostScratch(const tn_exec* exec, const Scratch& s, const tn_edit_matrix& m)
        : values(sdk::OnHost<double>::unread(exec, s.values, m.columns)),
          rows(sdk::OnHost<double>::unread(exec, s.rows, m.columns * m.rows)),
          turn(sdk::OnHost<double>::unread(exec, s.turn, m.columns * m.columns)),
          directions(sdk::OnHost<double>::unread(exec, s.directions, directions_scratch(m.rows))),
          order(sdk::OnHost<int64_t>::unread(exec, s.order, m.rows)) {}
  };
  // (1 − sparsity) · n to the nearest multiple of the interval; all of n where nothing is to be deleted.
  int64_t width(int64_t n) const {
    if (sparsity_ == 0) return n;
    const double wanted = (1 - sparsity_) * static_cast<double>(n);
    return std::clamp<int64_t>(std::llround(wanted / static_cast<double>(interval_)) * interval_, std::min(interval_, n), n);
  }

  double sparsity_;
  int64_t interval_, samples_, length_;
  bool slice_head_, random_axes_;
  uint32_t basis_;
};

constexpr tn_hyper_info kSparsity = sdk::real("sparsity", "0.25", 0, 0.5, 0, nullptr, "share of the residual stream's channels that is deleted"),
                        kInterval = sdk::integer("round_interval", "8", 1, 1024, "channels", "what is left is a multiple of this"),
                        kSamples = sdk::integer("samples", "128", 1, 65536, "sequences", "sequences of calibration text"),
                        kLength = sdk::integer("sample_length", "2048", 2, 1 << 20, "tokens", "tokens of a calibration sequence"),
                        kHead = sdk::flag("slice_head", "false", "delete channels of what the head reads too"),
                        kOrientation = sdk::choice("final_orientation", "pca", "pca|random", "axes within what is kept: its principal directions, or random ones"),
                        kBasis = sdk::choice("basis", "pca", "pca|pca_normalized|random",
                                             "what is kept: the principal directions of hidden states, of those as their norm sees them, or, without text, random ones");
constexpr const tn_hyper_info* kHypers[] = {&kSparsity, &kInterval, &kSamples, &kLength, &kHead, &kOrientation, &kBasis};
constexpr tn_quantizer_api kApi = sdk::quantizer_api<Technique>();
constexpr tn_edits kEdits = sdk::edits_table<Technique>();
const void* extension(const char* id) { return std::string_view(id) == TN_EXT_EDITS ? &kEdits : nullptr; }
constexpr tn_plugin kPlugin = sdk::describe(TN_KIND_QUANTIZER, "slicegpt", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::slicegpt

TENON_PLUGIN(tenon::slicegpt::kPlugin)
