#include "hosts/trainer/text/data/documents.h"

namespace tenon::trainer {

Documents Documents::subset(const std::vector<size_t>& indices) const {
  Documents out;
  out.source = source;
  for (const size_t i : indices) {
    out.starts.push_back(out.tokens.size());
    out.tokens.insert(out.tokens.end(), tokens.begin() + std::ptrdiff_t(begin(i)),
                      tokens.begin() + std::ptrdiff_t(end(i)));
    if (!counts.empty())
      out.counts.insert(out.counts.end(), counts.begin() + std::ptrdiff_t(begin(i)),
                        counts.begin() + std::ptrdiff_t(end(i)));
  }
  return out;
}

}  // namespace tenon::trainer
