// What holds for every optimizer, whatever its rule: states as estimated, resuming bit for bit, no influence of the
// number of threads, nothing but decay without a gradient, bf16 weights that follow f32 ones, and odd shapes.
#pragma once

#include <gtest/gtest.h>

#include <memory>

#include "sdk/testing/optimizer.h"
#include "sdk/testing/statistics.h"
#include "sdk/testing/threads.h"

namespace tenon::sdk::testing {

using Settings = std::map<std::string, std::string>;

inline size_t elements(const std::vector<int64_t>& shape) {
  size_t n = 1;
  for (const int64_t d : shape) n *= static_cast<size_t>(d);
  return n;
}
inline std::vector<float> gradient_at(const Parameter& p, int t) {
  return normals(elements(p.shape), 1000 + static_cast<uint32_t>(t), 0.1f);
}
// How far each weight went from `start`.
inline std::vector<float> moved(const std::vector<float>& now, const std::vector<float>& start) {
  std::vector<float> out = now;
  for (size_t i = 0; i < out.size(); ++i) out[i] -= start[i];
  return out;
}
inline Parameter matrix(int64_t m, int64_t n, uint32_t role = TN_ROLE_O) {
  return {{m, n}, normals(static_cast<size_t>(m * n), 1), role};
}

struct Subject {
  std::string object;
  Settings settings;
  std::vector<Parameter> parameters;
  double lr = 1e-3;
  int silent = 0;  // first updates, which leave weights alone

  std::unique_ptr<OptimizerRun> start() const { return std::make_unique<OptimizerRun>(object, settings, parameters); }
  void steps(OptimizerRun& run, int from, int to, StepOptions o = {}) const {
    o.lr = lr;
    for (int t = from; t <= to; ++t)
      for (size_t i = 0; i < parameters.size(); ++i)
        ASSERT_EQ(run.step(i, gradient_at(parameters[i], t), o), TN_OK) << run.host.error;
  }
};

inline void expect_resumes(const Subject& s) {
  const auto straight = s.start(), first = s.start(), second = s.start();
  s.steps(*straight, 1, 9), s.steps(*first, 1, 4);
  second->resume_from(*first);
  s.steps(*second, 5, 9);
  EXPECT_TRUE(second->same_bits(*straight)) << "a resumed run differs";
}

inline void expect_threads_do_not_matter(const Subject& s) {
  const auto run = [&](int threads) {
    const Threads scope(threads);
    auto r = s.start();
    s.steps(*r, 1, 5, {.flags = TN_ITEM_STOCHASTIC_ROUNDING});
    return r;
  };
  EXPECT_TRUE(run(1)->same_bits(*run(3))) << "the number of threads matters";
}

inline void expect_any_order(const Subject& s) {
  const auto together = s.start();
  s.steps(*together, 1, 4);
  for (size_t i = 0; i < s.parameters.size(); ++i) {
    const auto alone = s.start();
    for (int t = 1; t <= 4; ++t) alone->step(i, gradient_at(s.parameters[i], t), {.lr = s.lr});
    EXPECT_EQ(alone->weights(i), together->weights(i)) << "parameter " << i << " depends on others";
  }
}

// From the first step on, and after steps with a gradient all stays finite.
inline void expect_only_decay_without_gradient(Subject s) {
  s.settings["weight_decay"] = "0.5";
  const auto run = s.start();
  for (size_t i = 0; i < s.parameters.size(); ++i) {
    const std::vector<float>& w = s.parameters[i].start;
    for (int t = 0; t < s.silent; ++t) {
      ASSERT_EQ(run->step(i, std::vector<float>(w.size()), {.lr = 0.1}), TN_OK);
      ASSERT_EQ(run->weights(i), w);
    }
    ASSERT_EQ(run->step(i, std::vector<float>(w.size()), {.lr = 0.1}), TN_OK);
    ASSERT_EQ(run->step(i, std::vector<float>(w.size()), {.lr = 0.1, .decay_scale = 0}), TN_OK);
    for (size_t k = 0; k < w.size(); ++k) ASSERT_NEAR(run->weights(i)[k], 0.95 * w[k], 1e-6 * std::abs(w[k]));
    for (int t = 3; t <= 4; ++t) ASSERT_EQ(run->step(i, gradient_at(s.parameters[i], t), {.lr = s.lr}), TN_OK);
    ASSERT_EQ(run->step(i, std::vector<float>(w.size()), {.lr = 0.1}), TN_OK);
    for (const float x : run->weights(i)) ASSERT_TRUE(std::isfinite(x));
  }
}

inline void expect_rounded_weights_follow(const Subject& s) {
  Subject master = s, random = s;
  for (Parameter& p : master.parameters) p.dtype = kBF16, p.master = true;
  for (Parameter& p : random.parameters) p.dtype = kBF16;
  const auto full = s.start(), with_master = master.start(), stochastic = random.start();
  s.steps(*full, 1, 6), master.steps(*with_master, 1, 6);
  random.steps(*stochastic, 1, 6, {.flags = TN_ITEM_STOCHASTIC_ROUNDING});
  for (size_t i = 0; i < s.parameters.size(); ++i) {
    EXPECT_LT(relative_distance(with_master->masters(i), full->weights(i)), 1e-6);
    EXPECT_EQ(with_master->weights(i)[0], to_float(from_float<bf16>(with_master->masters(i)[0])));
    EXPECT_LT(relative_distance(stochastic->weights(i), full->weights(i)), 1e-2);
  }
}

inline void expect_odd_shapes(const Subject& s) {
  Subject odd = s;
  odd.parameters.clear();
  for (const auto& [m, n] : std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {1, 7}, {7, 1}, {2, 3}, {33, 17}})
    odd.parameters.push_back(matrix(m, n));
  odd.parameters.push_back({{7}, normals(7, 1), TN_ROLE_NORM});
  const auto run = odd.start();
  odd.steps(*run, 1, 4);
  for (size_t i = 0; i < odd.parameters.size(); ++i)
    for (const float x : run->weights(i)) ASSERT_TRUE(std::isfinite(x)) << i;
  OptimizerRun empty(s.object, s.settings, {{{0, 5}, {}, TN_ROLE_O}, {{3, 0}, {}, TN_ROLE_O}});
  EXPECT_EQ(empty.step(0, {}), TN_OK);
  EXPECT_EQ(empty.step(1, {}), TN_OK);
}

inline void expect_state_bytes(const Subject& s, const std::vector<uint64_t>& bytes) {
  const auto run = s.start();
  for (size_t i = 0; i < s.parameters.size(); ++i) {
    EXPECT_EQ(run->state_bytes(i), bytes[i]) << i;
    EXPECT_EQ(run->estimate(i).state_bytes, bytes[i]) << i;
  }
}

inline void expect_sound(const Subject& s) {
  expect_resumes(s), expect_threads_do_not_matter(s), expect_any_order(s), expect_only_decay_without_gradient(s);
  expect_rounded_weights_follow(s), expect_odd_shapes(s);
}

}  // namespace tenon::sdk::testing
