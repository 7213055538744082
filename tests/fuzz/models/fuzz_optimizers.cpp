// What a user writes after --optimizer, arbitrary: clauses whose written form reads back the same, or one Error of one line.
#include <cstdlib>
#include <string>

#include "core/error.h"
#include "hosts/trainer/optim/route.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tenon::trainer;
  try {
    const std::vector<OptimizerClause> clauses = parse_optimizers({reinterpret_cast<const char*>(data), size});
    std::string text;
    for (const OptimizerClause& c : clauses) text += (text.empty() ? "" : "; ") + c.with_lr_and_selector(c.spec, true);
    const std::vector<OptimizerClause> again = parse_optimizers(text);
    if (again.size() != clauses.size()) std::abort();
    for (size_t i = 0; i < clauses.size(); ++i)
      if (again[i].selector.text() != clauses[i].selector.text() || again[i].lr.has_value() != clauses[i].lr.has_value()) std::abort();
  } catch (const tenon::Error& e) {
    if (std::string(e.what()).find('\n') != std::string::npos) std::abort();
  }
  return 0;
}
