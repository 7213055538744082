// Adam-mini (Zhang et al. 2024): AdamW whose second moment is one number per block of consecutive rows. A block is what
// the Hessian shows as one dense square: a head of q and k, an output neuron of every other matrix, a whole norm.
#include "sdk/adam.h"
#include "sdk/optimizer.h"
#include "sdk/workspace.h"

namespace tenon::sdk {
namespace {

constexpr tn_hyper_info kEps = hyper_eps("1e-8"), kWeightDecay = hyper_weight_decay("0"),
                        kVPerTensor = flag("v_per_tensor", "false",
                                           "one second moment for a whole v matrix: better for short runs"),
                        kStateDtype = choice("state_dtype", "f32", "f32|bf16",
                                             "how the first moment is kept; bf16 is rounded stochastically");
constexpr const tn_hyper_info* kHypers[] = {&kHyperBeta1,  &kHyperBeta2, &kEps,
                                            &kWeightDecay, &kVPerTensor, &kStateDtype};

// n elements in blocks of `size`; each block's squares are summed in `parts` parts.
struct Blocks {
  int64_t n, size, blocks, parts;
  double* partial = nullptr;
  float* inverse = nullptr;  // 1 / (root · √v + ε) of each block

  Blocks(int64_t n, int64_t size) : n(n), size(size), blocks(size > 0 ? n / size : 0), parts(chunks(size)) {}
  void lay_out(Workspace& w) { partial = w.take<double>(blocks * parts), inverse = w.take<float>(blocks); }
};

// b is laid out in the workspace of `exec`.
void update_blocks(const tn_exec* exec, const AdamSettings& settings, const Blocks& b, const tn_item& item) {
  const AdamNumbers a(settings, item);
  const Stored grad = gradient_of(item), weight = weight_of(item), moment = state_of(item, 0, b.n);
  const Stored second = state_of(item, 1, b.blocks);
  const float* inverse = b.inverse;

  for_each_block<kChunk * sizeof(float)>(
      exec, b.blocks * b.parts,
      [=] TN_KERNEL(const Block& block) {
        const int64_t part = block.index % b.parts * kChunk;
        const Chunk chunk(block.index / b.parts * b.size + part, b.size - part < kChunk ? b.size - part : kChunk);
        const float* g = grad.read(block, chunk, block.shared<float>());
        b.partial[block.index] = block.sum(chunk.n, [=](int64_t i) {
          const double x = static_cast<double>(g[i]) * static_cast<double>(a.grad_scale);
          return x * x;
        });
      },
      b.size < kChunk ? b.size : kChunk);
  for_each(exec, b.blocks, [=] TN_KERNEL(int64_t k) {
    double sum = 0;
    for (int64_t p = 0; p < b.parts; ++p) sum += b.partial[k * b.parts + p];
    const float v = decayed(a.a2, second.f32[k], static_cast<float>(sum / static_cast<double>(b.size)));
    second.f32[k] = v;
    b.inverse[k] = adam_ratio(a, 1, v);
  });
  for_each_block<3 * kChunk * sizeof(float)>(
      exec, chunks(b.n),
      [=] TN_KERNEL(const Block& block) {
        const Chunk chunk(block, b.n);
        float* stage = block.shared<float>();
        const float* g = grad.read(block, chunk, stage);
        float *w = weight.read(block, chunk, stage + kChunk), *m = moment.read(block, chunk, stage + 2 * kChunk);
        for (int64_t at = 0; at < chunk.n;) {  // the pieces of the blocks that meet this chunk
          const int64_t k = (chunk.begin + at) / b.size, left = (k + 1) * b.size - chunk.begin - at;
          const int64_t first = at, count = left < chunk.n - at ? left : chunk.n - at;
          const float factor = inverse[k];
          block.each(count, [=](int64_t i) {
            const int64_t j = first + i;
            m[j] = decayed(a.a1, m[j], g[j] * a.grad_scale);
            w[j] = stepped(a, w[j], m[j] * factor);
          });
          at += count;
        }
        weight.write(block, chunk, w);
        moment.write(block, chunk, m);
      },
      kChunk);
}

class AdamMini {
 public:
  static constexpr uint32_t kCaps = TN_OPTIMIZER_ONE_AT_A_TIME;

  AdamMini(const tn_host*, const Hypers& h)
      : settings_{h.real("beta1"), h.real("beta2"), h.real("eps"), h.real("weight_decay")},
        v_per_tensor_(h.flag("v_per_tensor")),
        state_dtype_(h.text("state_dtype") == "bf16" ? kBF16 : kF32) {}

  void supports(const tn_query& q) const { supports_dense("adam-mini", q); }
  void bind(const tn_param* const* params, uint64_t n) { parameters_.bind("adam-mini", params, n); }

  void state_layout(uint32_t uid, const tn_state_sink& sink) const {
    const Parameters::Entry& e = parameters_.at(uid);
    if (is_whole(e.info)) return adam_declare(sink, e.info, state_dtype_);
    declare_like(sink, "exp_avg", state_dtype_, e.info);
    const int64_t count = blocks(e).blocks;
    declare_slot(sink, "vmean", TN_SLOT_VALUE, kF32, 1, &count);
  }

  void estimate(const tn_device_api*, tn_device*, uint32_t uid, tn_estimate& out) const {
    const Parameters::Entry& e = parameters_.at(uid);
    if (is_whole(e.info)) return adam_estimate(e, out, state_dtype_);
    Blocks b = blocks(e);
    Workspace measure;
    b.lay_out(measure);
    const double n = static_cast<double>(e.n), moment = n * state_dtype_.bits / 8;
    out.state_bytes = static_cast<uint64_t>(e.n) * state_dtype_.bits / 8 + 4 * static_cast<uint64_t>(b.blocks);
    out.workspace_bytes = measure.peak();
    out.flops = 10 * n;
    out.bytes_moved = 2 * moment + 3 * n * e.info.dtype.bits / 8;
  }

  void apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) const {
    for (uint64_t i = 0; i < n; ++i) {
      const tn_item& item = *items[i];
      const Parameters::Entry& e = parameters_.check(item);
      if (!item.grad || e.n == 0) continue;
      if (is_whole(e.info))
        adam_update(exec, settings_, item, false);
      else
        update_in_blocks(exec, e, item);
    }
  }

 private:
  static bool is_whole(const tn_param& p) { return p.role == TN_ROLE_BIAS; }

  // Rows of a block times the length of a row.
  Blocks blocks(const Parameters::Entry& e) const {
    const tn_param& p = e.info;
    const int64_t rows = p.ndim > 0 ? p.shape[0] : 1, heads = p.role == TN_ROLE_Q   ? p.n_heads
                                                              : p.role == TN_ROLE_K ? p.n_kv_heads
                                                                                    : 0;
    if (p.ndim < 2 || (p.role == TN_ROLE_V && v_per_tensor_)) return {e.n, e.n};
    if (heads > 0 && rows % heads == 0) return {e.n, e.n / heads};
    return {e.n, rows > 0 ? e.n / rows : 0};
  }

  void update_in_blocks(const tn_exec* exec, const Parameters::Entry& e, const tn_item& item) const {
    Workspace workspace(*exec);
    Blocks b = blocks(e);
    b.lay_out(workspace);
    update_blocks(exec, settings_, b, item);
  }

  AdamSettings settings_;
  bool v_per_tensor_;
  tn_dtype state_dtype_;
  Parameters parameters_;
};

constexpr tn_optimizer_api kApi = optimizer_api<AdamMini>();
constexpr tn_plugin kPlugin = describe(TN_KIND_OPTIMIZER, "adam-mini", "0.9.0", kHypers, &kApi);

}  // namespace
}  // namespace tenon::sdk

TENON_PLUGIN(tenon::sdk::kPlugin)
