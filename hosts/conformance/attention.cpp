// Checks of attention kernels, against the dense f64 evaluator.
#include <algorithm>
#include <cmath>

#include "hosts/conformance/attention_run.h"
#include "hosts/conformance/attempts.h"
#include "hosts/conformance/check.h"
#include "sdk/attention/merge.h"

namespace tenon::conformance {
namespace {

// Every case by its name, in f32. A case that the plugin refuses in words is passed over.
std::vector<AttentionCase> cases() {
  std::vector<AttentionCase> out;
  const auto add = [&](const char* name, auto change) {
    AttentionCase c;
    c.name = name;
    change(c);
    out.push_back(c);
  };
  add("causal, grouped heads", [](AttentionCase&) {});
  add("no mask", [](AttentionCase& c) { c.mask = {}; });
  add("no mask, more keys than queries", [](AttentionCase& c) { c.mask = {}, c.t_k = 50; });
  add("a window", [](AttentionCase& c) { c.mask = {causal_mask(), window_mask(4, -1)}; });
  add("a window on both sides", [](AttentionCase& c) { c.mask = {window_mask(3, 5)}; });
  add("a window with a sink", [](AttentionCase& c) { c.mask = {causal_mask(), window_mask(4, -1), sink_mask(2)}; });
  add("one key head for all", [](AttentionCase& c) { c.kv_heads = 1; });
  add("as many key heads as query heads", [](AttentionCase& c) { c.heads = c.kv_heads = 3; });
  add("one token", [](AttentionCase& c) { c.t_q = c.t_k = 1; });
  add("seven tokens", [](AttentionCase& c) { c.t_q = c.t_k = 7, c.batch = 1; });
  add("200 tokens", [](AttentionCase& c) { c.t_q = c.t_k = 200, c.batch = 1, c.heads = 2, c.kv_heads = 1; });
  add("heads of 80", [](AttentionCase& c) { c.d = c.e = 80; });
  add("values narrower than keys", [](AttentionCase& c) { c.d = 24, c.e = 16; });
  add("a soft cap", [](AttentionCase& c) { c.softcap = 5; });
  add("rows with gaps", [](AttentionCase& c) { c.wide_rows = true; });
  add("large scores", [](AttentionCase& c) { c.amplitude = 12; });
  add("packed documents", [](AttentionCase& c) {
    c.batch = 1;
    c.segments = {{0, 10, 0, 10, 0, 0}, {10, 1, 10, 1, 0, 0}, {11, 22, 11, 22, 0, 0}};
  });
  add("a chunk of a longer sequence", [](AttentionCase& c) { c.t_q = 9, c.t_k = 40, c.q_pos = 31; });
  add("a map of tiles", [](AttentionCase& c) {
    static constexpr int64_t kRows[] = {0, 1, 3, 5};
    static constexpr int32_t kColumns[] = {0, 0, 1, 0, 2};
    static constexpr tn_block_map kMap = {TN_SIZE_TO(tn_block_map, column), 1, 16, 16, 3, 3, kRows, kColumns};
    c.mask.push_back({TN_SIZE_TO(tn_mask_term, blocks), TN_MASK_BLOCKS, 0, 0, 0, &kMap});
  });
  add("rows that see nothing", [](AttentionCase& c) { c.k_pos = 20; });
  return out;
}

template <class Body>
void each_case(Subject& s, Body body, bool numbers = false) {
  if (s.api<tn_attention_api>().placement != TN_PLACEMENT_CORE)
    throw NotApplicable{"the battery has no reference for mixers that own their projections"};
  Attempts attempts;
  for (const auto& values : s.variants(numbers))
    for (const AttentionCase& c : cases())
      attempts.attempt([&] {
        const Spec spec = s.spec(values);
        AttentionRun run(s, spec, c);
        body(run, c, spec, std::string(c.name) + " with " + words(values));
      });
  if (!attempts.any()) throw NotApplicable{"every case is refused: " + attempts.refusal()};
}

std::vector<float> narrow(const std::vector<double>& x) {
  return {x.begin(), x.end()};
}

void expect_close(const std::vector<float>& got, const std::vector<float>& want, double tolerance,
                  const std::string& what) {
  for (size_t i = 0; i < want.size(); ++i)
    if (std::isinf(want[i])) expect(got[i] == want[i], what + " must be -inf for a row that sees no key");
  std::vector<float> a = got, b = want;
  for (size_t i = 0; i < b.size(); ++i)
    if (std::isinf(b[i])) a[i] = b[i] = 0;
  expect(all_finite(a), what + " is NaN or Inf");
  const double size = std::max(norm(b), 0.05 * std::sqrt(static_cast<double>(b.size())));
  const double d = norm(plus(a, -1, b)) / size;
  expect(d <= tolerance, what + " differs from the dense evaluation by " + percent(d));
}

void forward(Subject& s) {
  each_case(
      s,
      [&](AttentionRun& run, const AttentionCase& c, const Spec&, const std::string& name) {
        run.forward();
        const auto want = run.dense().forward();
        const double tolerance = c.amplitude > 2 ? 1e-3 : 2e-5;
        expect_close(run.values(TN_PORT_O), narrow(want.o), tolerance, "o of " + name);
        expect_close(run.values(TN_PORT_LSE), narrow(want.lse), tolerance, "lse of " + name);
      },
      true);
}

void backward(Subject& s) {
  each_case(
      s,
      [&](AttentionRun& run, const AttentionCase& c, const Spec&, const std::string& name) {
        run.forward();
        run.backward();
        const std::vector<float> d_o = run.values(TN_PORT_DO);
        const auto want = run.dense().backward({d_o.begin(), d_o.end()}, {});
        const double tolerance = c.amplitude > 2 ? 5e-3 : 1e-4;
        expect_close(run.values(TN_PORT_DQ), narrow(want.dq), tolerance, "dq of " + name);
        expect_close(run.values(TN_PORT_DK), narrow(want.dk), tolerance, "dk of " + name);
        expect_close(run.values(TN_PORT_DV), narrow(want.dv), tolerance, "dv of " + name);
      },
      true);
}

void finite_differences(Subject& s) {
  constexpr double kStep = 1e-2;
  AttentionCase c;
  c.batch = 1, c.t_q = c.t_k = 11;
  AttentionRun run(s, s.spec(), c);
  run.forward(), run.backward();
  const std::vector<float> d_o = run.values(TN_PORT_DO);
  for (const auto& [port, gradient, name] : {std::tuple<uint32_t, uint32_t, const char*>{TN_PORT_Q, TN_PORT_DQ, "dq"},
                                             {TN_PORT_K, TN_PORT_DK, "dk"},
                                             {TN_PORT_V, TN_PORT_DV, "dv"}}) {
    const std::vector<float> x = run.values(port), g = run.values(gradient),
                             direction = normals(static_cast<int64_t>(x.size()), 93);
    const auto loss = [&](double step) {
      run.set(port, plus(x, step, direction));
      run.forward();
      return dot(run.values(TN_PORT_O), d_o);
    };
    const double slope = (loss(kStep) - loss(-kStep)) / (2 * kStep);
    run.set(port, x);
    expect(std::fabs(dot(g, direction) - slope) < 0.02 * std::fabs(slope) + 0.01 * norm(g),
           std::string(name) + " is " + std::to_string(dot(g, direction)) +
               " along a random direction where finite differences give " + std::to_string(slope));
  }
}

void low_precision(Subject& s) {
  Attempts attempts;
  for (const tn_dtype dtype : {sdk::kBF16, sdk::kF16})
    for (AttentionCase c : cases()) {
      if (c.amplitude > 2) continue;
      c.dtype = dtype;
      attempts.attempt([&] {
        AttentionRun run(s, s.spec(), c);
        run.forward(), run.backward();
        const std::vector<float> d_o = run.values(TN_PORT_DO);
        const auto want = run.dense().forward();
        // Through a norm of o the gradient is what is left of a difference, and o itself is rounded.
        const double tolerance = run.dense().form == TN_FORM_LINEAR_RMS ? 0.1 : 0.05;
        const auto gradients = run.dense().backward({d_o.begin(), d_o.end()}, {});
        const std::string name = std::string(" of ") + c.name + (dtype.code == TN_BFLOAT ? " in bf16" : " in f16");
        expect_close(run.values(TN_PORT_O), narrow(want.o), 0.02, "o" + name);
        expect_close(run.values(TN_PORT_DQ), narrow(gradients.dq), tolerance, "dq" + name);
        expect_close(run.values(TN_PORT_DK), narrow(gradients.dk), tolerance, "dk" + name);
        expect_close(run.values(TN_PORT_DV), narrow(gradients.dv), tolerance, "dv" + name);
      });
    }
  if (!attempts.any()) throw NotApplicable{"every case in bf16 and f16 is refused: " + attempts.refusal()};
}

void accumulation(Subject& s) {
  each_case(s, [&](AttentionRun& run, const AttentionCase&, const Spec&, const std::string& name) {
    run.forward();
    run.backward();
    std::vector<std::vector<float>> once;
    for (const uint32_t port : {TN_PORT_DQ, TN_PORT_DK, TN_PORT_DV}) once.push_back(run.values(port));
    run.backward(true);
    size_t i = 0;
    for (const uint32_t port : {TN_PORT_DQ, TN_PORT_DK, TN_PORT_DV}) {
      expect(distance(run.values(port), plus(once[i], 1, once[i])) < 1e-6,
             "a second backward with TN_BIND_ACCUMULATE does not double the gradients of " + name);
      ++i;
    }
  });
}

void determinism(Subject& s) {
  each_case(s, [&](AttentionRun&, AttentionCase c, const Spec& spec, const std::string& name) {
    c.dropout = 0.25;
    if (AttentionRun run(s, spec, c); !run.try_forward()) c.dropout = 0;  // a kernel without weights to drop
    const auto everything = [&](AttentionCase form) {
      AttentionRun run(s, spec, form);
      run.forward(), run.backward();
      std::vector<std::vector<uint8_t>> out;
      for (const uint32_t port : {TN_PORT_O, TN_PORT_LSE, TN_PORT_DQ, TN_PORT_DK, TN_PORT_DV})
        out.push_back(run.at(port).raw());
      return out;
    };
    const auto first = everything(c);
    expect(everything(c) == first, "two equal calls differ in their bits for " + name);
    for (const int threads : {1, 3})
      with_threads(threads,
                   [&] { expect(everything(c) == first, "the result depends on the number of threads for " + name); });
    c.poison = 0;
    expect(everything(c) == first, "the result depends on what the workspace held before for " + name);
    c.longer = true;
    expect(everything(c) == first, "the result changes when a newer host passes longer structs for " + name);
  });
}

// Two halves of the keys, merged by their LSE, are the whole.
void partial_results(Subject& s) {
  AttentionCase whole;
  whole.batch = 1, whole.t_q = 9, whole.t_k = 40, whole.q_pos = 31;
  AttentionCase half = whole;
  half.flags = TN_ATTENTION_PARTIAL, half.t_k = 20;
  AttentionRun all(s, s.spec(), whole), first(s, s.spec(), half);
  half.k_pos = 20;
  AttentionRun second(s, s.spec(), half);
  const std::vector<float> k = all.values(TN_PORT_K), v = all.values(TN_PORT_V);
  const int64_t cut = 20 * whole.kv_heads * whole.d, end = static_cast<int64_t>(k.size());
  for (AttentionRun* run : {&first, &second}) run->set(TN_PORT_Q, all.values(TN_PORT_Q));
  first.set(TN_PORT_K, slice(k, 0, cut)), first.set(TN_PORT_V, slice(v, 0, cut));
  second.set(TN_PORT_K, slice(k, cut, end)), second.set(TN_PORT_V, slice(v, cut, end));
  all.forward(), first.forward(), second.forward();
  std::vector<float> o = first.values(TN_PORT_O), lse = first.values(TN_PORT_LSE);
  const std::vector<float> o2 = second.values(TN_PORT_O), lse2 = second.values(TN_PORT_LSE);
  for (int64_t t = 0; t < whole.t_q; ++t)
    for (int64_t h = 0; h < whole.heads; ++h)
      sdk::merge_row(&o[(t * whole.heads + h) * whole.e], lse[h * whole.t_q + t], &o2[(t * whole.heads + h) * whole.e],
                     lse2[h * whole.t_q + t], whole.e);
  expect_close(o, all.values(TN_PORT_O), 1e-5, "o of two merged partial calls");
  expect_close(lse, all.values(TN_PORT_LSE), 1e-5, "lse of two merged partial calls");
}

tn_attention_state state_of(AttentionRun& run, int64_t tokens) {
  Longer<tn_attention_state> state;
  const tn_dtype dtype = sdk::kF32;
  if (!accepted(run.api().state(run.self(), &dtype, tokens, state.get(TN_SIZE_TO(tn_attention_state, bytes), false)),
                "state"))
    throw NotApplicable{"the kernel does not decode"};
  return state.value;
}

// Rows [begin, end) of a sequence of 37, in the order in which a host feeds them: a prompt, tokens, a few at once.
constexpr int64_t kFed[][2] = {{0, 20}, {20, 21}, {21, 22}, {22, 27}, {27, 37}};

// Opaque states: pieces with the state between them are the whole sequence; the state may be copied.
void carried_state(Subject& s, const std::map<std::string, std::string>& values) {
  AttentionCase whole;
  whole.batch = 1, whole.t_q = whole.t_k = 37;
  AttentionRun all(s, s.spec(values), whole);
  const std::vector<float> want = narrow(all.dense().forward().o);
  const uint64_t bytes = state_of(all, 40).bytes;
  const std::vector<int64_t> shape{1, static_cast<int64_t>(bytes)};
  auto state = std::make_shared<Tensor>(s.bench(), "the decode state", sdk::kU8, shape);
  for (const auto& [begin, end] : kFed) {
    AttentionCase c = whole;
    c.t_q = c.t_k = end - begin, c.q_pos = c.k_pos = begin, c.state_tokens = 40,
    c.phase = begin == 0 ? TN_PHASE_PREFILL : TN_PHASE_DECODE;
    AttentionRun piece(s, s.spec(values), c);
    for (const uint32_t port : {TN_PORT_Q, TN_PORT_K, TN_PORT_V}) {
      const int64_t width = port == TN_PORT_Q ? c.heads * c.d : port == TN_PORT_K ? c.kv_heads * c.d : c.kv_heads * c.e;
      piece.set(port, slice(all.values(port), begin * width, end * width));
    }
    // In place for tokens, into a copy for the rest.
    const auto out =
        end - begin == 1 ? state : std::make_shared<Tensor>(s.bench(), "the next decode state", sdk::kU8, shape);
    if (out != state) out->fill(0xFF);
    if (begin > 0) piece.bind_state(TN_PORT_STATE_IN, state);
    piece.bind_state(TN_PORT_STATE_OUT, out);
    piece.forward();
    state = out;
    expect_close(piece.values(TN_PORT_O), slice(want, begin * c.heads * c.e, end * c.heads * c.e), 2e-5,
                 "o of positions " + std::to_string(begin) + " to " + std::to_string(end) +
                     ", fed with the decode state and " + words(values));
  }
}

void decoding(Subject& s) {
  Attempts attempts;
  for (const auto& values : s.variants(true))
    attempts.attempt([&] {
      AttentionCase c;
      c.phase = TN_PHASE_PREFILL, c.batch = 1;
      AttentionRun run(s, s.spec(values), c);
      run.forward();
      expect_close(run.values(TN_PORT_O), narrow(run.dense().forward().o), 2e-5, "o of a prefill");
      const tn_attention_state few = state_of(run, 16), many = state_of(run, 4096);
      expect(few.kind >= TN_STATE_PER_TOKEN && few.kind <= TN_STATE_RING,
             "the decode state has a kind that the ABI does not know");
      expect(many.kind == few.kind && many.bytes >= few.bytes,
             "the decode state of 4096 tokens is smaller, or of another kind, than that of 16");
      if (few.kind == TN_STATE_FIXED) expect(many.bytes == few.bytes, "a FIXED decode state grows with the sequence");
      if (few.kind != TN_STATE_PER_TOKEN) return carried_state(s, values);
      expect(many.bytes == uint64_t{4096} * c.kv_heads * (c.d + c.e) * 4,
             "a PER_TOKEN decode state is not the rows of k and v");
      c.phase = TN_PHASE_DECODE, c.t_q = 1, c.t_k = 37, c.q_pos = 36;
      AttentionRun one(s, s.spec(values), c);
      one.forward();
      expect_close(one.values(TN_PORT_O), narrow(one.dense().forward().o), 2e-5, "o of one decoded token");
    });
  if (!attempts.any()) throw NotApplicable{"every case is refused: " + attempts.refusal()};
}

void refusals(Subject& s) {
  AttentionRun run(s, s.spec(), {});
  const auto planned = [&](AttentionCase c) {
    try {
      AttentionRun other(s, s.spec(), c);
      return true;
    } catch (const NotApplicable&) {
      return false;
    }
  };
  AttentionCase unknown;
  unknown.mask.push_back({TN_SIZE_TO(tn_mask_term, blocks), 0x7001, 0, 0, 0, nullptr});
  expect(!planned(unknown), "plan accepts a mask term of an unknown kind");
  AttentionCase outside;
  outside.batch = 1, outside.segments = {{0, 10, 0, 99, 0, 0}};
  expect(!planned(outside), "plan accepts a segment with keys beyond the tensor");
  AttentionCase heads;
  heads.heads = 5, heads.kv_heads = 2;
  expect(!planned(heads), "5 query heads over 2 key heads are accepted");
}

void leaks(Subject& s) {
  AttentionRun run(s, s.spec(), {});
  expect_no_leak([&] { run.forward(), run.backward(); });
}

constexpr Check kChecks[] = {
    {"forward", "o and lse equal the dense evaluation under every mask and head grouping", forward},
    {"backward", "dq, dk and dv equal the dense evaluation", backward},
    {"finite differences", "the gradients are those of the forward", finite_differences},
    {"low precision", "bf16 and f16 stay within their rounding", low_precision},
    {"accumulation", "gradients are added where TN_BIND_ACCUMULATE asks for it", accumulation},
    {"determinism", "equal bits again with dropout, for any number of threads, workspace content and newer host",
     determinism},
    {"partial results", "partial calls merge to the whole", partial_results},
    {"decoding", "prefill and single tokens are right", decoding},
    {"refusals", "unknown masks, bad segments and uneven heads are refused in words", refusals},
    {"leaks", "host memory does not grow with calls", leaks},
};

}  // namespace

std::span<const Check> attention_checks() {
  return kChecks;
}

}  // namespace tenon::conformance
