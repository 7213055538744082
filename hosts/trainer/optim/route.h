// Which optimizer updates which parameter: `muon:momentum=0.95,lr=0.02 for matrices, adamw for rest`.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hosts/trainer/model/parameter.h"

namespace tenon::trainer {

// What a selector looks at.
struct ParameterTraits {
  std::string_view name;
  uint32_t role = 0;  // TN_ROLE_*
  int32_t block = -1, ndim = 0;
};

// A set of parameters, as words: `matrices`, `embeddings and head`, `q in blocks 0-3`, `blocks 4-`, `*.mlp.*`, `rest`.
class Selector {
 public:
  Selector() = default;  // every parameter
  // Throws TN_E_ARGUMENT for a word that is no class, range or pattern, naming the nearest.
  static Selector parse(std::string_view text);

  bool takes(const ParameterTraits& p) const;
  bool is_rest() const { return terms_.empty(); }
  const std::string& text() const { return text_; }  // words separated by one blank; "rest" for every parameter

 private:
  struct Term {
    std::string what;  // a class, a pattern of names, or "" for any
    bool pattern = false;
    int32_t first = 0, last = -2;  // blocks; last = -2: whatever the block
  };
  std::vector<Term> terms_;  // one of them; none: every parameter
  std::string text_ = "rest";
};

// One optimizer of a run, as written. `lr` is the host's own key of every optimizer: the highest rate of its parameters in place of
// --lr; it follows the run's schedule.
struct OptimizerClause {
  std::string spec;  // without lr
  std::optional<double> lr;
  Selector selector;

  std::string with_lr_and_selector(const std::string& spec_form, bool routed) const;
};

// Cuts `SPEC [for SELECTOR] {, SPEC for SELECTOR}`; semicolons do as well as commas after a selector. Clauses are asked in order and the
// first that takes a parameter gets it; a clause without a selector is `for rest`. Throws TN_E_ARGUMENT.
std::vector<OptimizerClause> parse_optimizers(std::string_view text);

// For every parameter the index of its clause. Throws TN_E_ARGUMENT for a parameter that no clause takes, and for a clause other than
// `rest` that takes none.
std::vector<size_t> route(const std::vector<Selector>& selectors, const std::vector<ParameterTraits>& parameters);

inline ParameterTraits traits(const Parameter& p) { return {p.name, p.role, p.block, p.value.ndim()}; }

}  // namespace tenon::trainer
