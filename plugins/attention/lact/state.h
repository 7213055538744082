// Which chunks a pass goes through, and the decode state: the window's ring, and for sequences that are longer than a chunk the fast
// weights, their momentum and the projections of the chunk that is being read.
#pragma once

#include <algorithm>

#include "gradient_kernels.h"
#include "sdk/mixer.h"
#include "window.h"

namespace tenon::lact {

struct Course {
  std::vector<sdk::MixerPass::Document> documents;
  int64_t chunk, longest = 1, steps = 0, most_steps = 0;  // longest: rows of a chunk in this pass; steps of all documents, and of one
  int64_t past_steps = 0;                                 // taken before a decoding pass
  bool learns = false;

  Course(const sdk::MixerPass& p, int64_t chunk) : documents(p.documents()), chunk(chunk) {
    if (p.decodes()) {
      documents.clear();
      past_steps = taken(p.past());
      steps = most_steps = taken(p.past() + p.rows()) - past_steps;
      longest = std::max(longest, std::min(p.rows(), chunk));
    }
    std::erase_if(documents, [](const auto& d) { return d.length == 0; });
    for (const auto& d : documents) {
      longest = std::max(longest, std::min(d.length, chunk));
      steps += steps_of(d), most_steps = std::max(most_steps, steps_of(d));
    }
    learns = steps > 0;
    if (learns) longest = chunk;
  }
  // Steps that have been taken when so many tokens have been read.
  int64_t taken(int64_t tokens) const { return tokens > 0 ? (tokens - 1) / chunk : 0; }
  int64_t steps_of(const sdk::MixerPass::Document& d) const { return taken(d.length); }
};

struct State {
  bool remembers = false;  // more than a chunk can be read
  Window::Ring ring{};
  float *raw = nullptr, *momentum = nullptr;
  char *k = nullptr, *v = nullptr, *rates = nullptr, *momenta = nullptr;  // of the chunk that is being read
};
template <class T>
struct Pending {
  T *k, *v, *rates, *momenta;
  explicit Pending(const State& s)
      : k(reinterpret_cast<T*>(s.k)), v(reinterpret_cast<T*>(s.v)), rates(reinterpret_cast<T*>(s.rates)), momenta(reinterpret_cast<T*>(s.momenta)) {}
};

struct StateLayout {
  Layout at;
  int64_t chunk, window, row_bytes, keys;  // keys: columns of a projection
  bool momentum;
  int64_t width;  // bytes of an activation

  uint64_t bytes(int64_t tokens) const { return static_cast<uint64_t>(ring(tokens) + (tokens > chunk ? memory() : 0)); }

  // The parts of a state; its size tells whether it is one for more than a chunk.
  State of(const sdk::MixerPass& p) const {
    const int64_t total = p.state().shape[0];
    State s;
    s.remembers = total > ring(chunk);
    const int64_t in_ring = s.remembers ? total - memory() : total;
    s.ring.rows = row_bytes ? std::min(window, in_ring / row_bytes) : 0;
    if (!s.remembers || p.plans()) return s;
    char* at_byte = sdk::data<char>(p.state()) + in_ring;
    const auto take = [&](int64_t n) {
      char* const part = at_byte;
      at_byte += aligned(n);
      return part;
    };
    s.raw = reinterpret_cast<float*>(take(at.size() * 4));
    if (momentum) s.momentum = reinterpret_cast<float*>(take(at.size() * 4));
    s.k = take(chunk * keys * width), s.v = take(chunk * keys * width), s.rates = take(chunk * 3 * at.heads * width);
    if (momentum) s.momenta = take(chunk * at.heads * width);
    return s;
  }

 private:
  static constexpr int64_t kAlignment = TN_ALIGNMENT;
  static int64_t aligned(int64_t n) { return (n + kAlignment - 1) / kAlignment * kAlignment; }
  int64_t ring(int64_t tokens) const { return aligned(std::max<int64_t>(1, std::min(tokens, window) * row_bytes)); }
  int64_t memory() const {
    const int64_t rows = 2 * aligned(chunk * keys * width) + aligned(chunk * 3 * at.heads * width);
    return rows + aligned(at.size() * 4) + (momentum ? aligned(at.size() * 4) + aligned(chunk * at.heads * width) : 0);
  }
};

}  // namespace tenon::lact
