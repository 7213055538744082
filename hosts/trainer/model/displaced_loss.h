// The loss of a head that is read as if it stood elsewhere (displacer.h).
#pragma once

#include "hosts/trainer/model/parameter.h"

namespace tenon::trainer {

// Nats of `rows` rows, summed, with the displaced weight [vocab, hidden]; labels i32 [rows], negative: not counted. Logits go by panels of the
// vocabulary, for all rows at once, within `room` bytes: so the noise of the largest matrix is made once, and not once for each tile of
// rows. hidden(begin, end) gives what the head reads in these rows. losses, if any, gets each row's.
double displaced_loss(Engine& engine, const Parameter& weight, int64_t rows, const std::function<Tensor(int64_t begin, int64_t end)>& hidden, const Tensor& labels,
                      int64_t room, std::vector<double>* losses);

}  // namespace tenon::trainer
