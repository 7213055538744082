// The measurements of `tenon bench`. Keys of figures are those of tests/peers.
#pragma once

#include "hosts/bench/measure.h"
#include "hosts/trainer/run/runtime.h"

namespace tenon::bench {

struct Setting {
  std::string device = "auto";
  int repeat = 7;
  bool quick = false;  // small sizes: shows that it works, measures nothing
  std::string optimizer = {};   // optimizer_matrix: what is measured
  std::string model = {}, text = {};  // open_model, tokenize: a path, and the text itself
  std::string attention = {};  // attention_lengths: what is measured, and over how many tokens
  std::vector<int64_t> lengths = {};
  std::string states = {}, activations = {}, quantizer = {};  // codec, quantized_linear: likewise
};

// Copy, triad and matrix products of the device plugin.
Figures device(const Catalog& catalog, const Setting& setting);
// AdamW in f32 and bf16, 8-bit AdamW, and a GaLore step that refreshes its basis, beside a copy of the same size. Bytes
// are those that the rule must move: f32 AdamW 28 an element, bf16 14, 8-bit 16 and 10.
Figures optimizer_step(const Catalog& catalog, const Setting& setting);
// A step of `setting.optimizer` over one 2048 × 5632 weight, against the time that its arithmetic and its bytes (as it
// estimates them) take at the device's own speed.
Figures optimizer_matrix(const Catalog& catalog, const Setting& setting);
// Encoding and decoding of a 2048 × 5632 weight.
Figures nf4(const Catalog& catalog, const Setting& setting);
// Encoding and decoding of a 2048 × 4096 tensor by the codecs of --states and --activations, f32 and bf16, beside a copy. Bytes are those
// that the codec estimates to move.
Figures codec(const Catalog& catalog, const Setting& setting);
// Forward products of a 2048 × 2048 weight in the form of --quantizer beside the dense f32 product, by rows of the input.
Figures quantized_linear(const Catalog& catalog, const Setting& setting);
// Causal attention of two model shapes, forward and backward. Operations: 2 · heads · T² · d forward, 2.5 times that
// backward.
Figures attention(const Catalog& catalog, const Setting& setting);
// Opening setting.model: its configuration and the index of its tensors; these with its tokenizer; every tensor copied, as it
// is stored, into the device's memory. The file is in the page cache.
Figures open_model(const Catalog& catalog, const Setting& setting);
// Token ids of setting.text under setting.model's tokenizer, on one thread.
Figures tokenize(const Catalog& catalog, const Setting& setting);
// Reading a prompt, and decoding one token at a time after it, always the likeliest.
Figures generate(trainer::Model& model, const std::vector<int32_t>& prompt, int64_t new_tokens, const Setting& setting);
// `setting.attention` over sequences of `setting.lengths` (causal, 9 query heads over 3 key heads of 64, f32): seconds, tokens a second
// forward and backward, and what share of exact attention's operations it does. Up to 8192 tokens exact attention runs in turn with it, and
// time_over_share says how far its time is from that share.
Figures attention_lengths(const Catalog& catalog, const Setting& setting);
// The same of a mixer that owns its projections, which are part of its time: seconds of the sub-layer, and tokens a second.
Figures mixer_lengths(const Catalog& catalog, const Setting& setting);
// Nanoseconds of calls through the ABI that do next to nothing.
Figures abi_call(const Catalog& catalog, const Setting& setting);

}  // namespace tenon::bench
