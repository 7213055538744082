// Block-sparse FlashAttention (Dao et al. 2022, section 3.3): the dense kernel over the tiles that a pattern or the
// mask's own map shows, so that time and traffic fall with their share.
#include <bit>

#include "sdk/attention/flash/kernel.h"

namespace tenon::block_sparse {
namespace {

using sdk::Run;
using sdk::flash::append_run;
using sdk::panel::floor_div;

enum class Shape { kButterfly, kBand, kStride };

// The generated patterns, the same for every head: query tile i and key tile j of `block` positions each.
//   butterfly  i xor j is 0 or a power of two: log2(T / block) + 1 tiles a row
//   band       |i − j| < local
//   stride     band, and every stride-th key tile (the last of each stride)
// All of them with the first `sink` tiles.
class Generated final : public sdk::flash::BlockPattern {
 public:
  Generated(Shape shape, int64_t block, int64_t local, int64_t stride, int64_t sink)
      : BlockPattern(block, false), shape_(shape), local_(local), stride_(stride), sink_(sink) {}

  void runs(int64_t, int64_t i, Run limit, std::vector<Run>& out) const override {
    const size_t first = out.size();
    int64_t next = 0;  // tiles before it are in the list, or not to be
    const auto show = [&](int64_t begin, int64_t end) {
      begin = std::max(begin, next), next = std::max(next, end);
      append_run(out, first, begin * block_q, end * block_q, limit);
    };
    show(0, sink_);
    const int64_t tiles = floor_div(limit.end - 1, block_q) + 1;
    if (shape_ == Shape::kButterfly) {
      for (int64_t bit = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(std::max<int64_t>(i, 0)))); bit > 0;
           bit >>= 1)
        if (i & bit) show(i - bit, i - bit + 1);
      show(i, i + 1);
      for (int64_t bit = 1; i >= 0 && i + bit < tiles; bit <<= 1)
        if (!(i & bit)) show(i + bit, i + bit + 1);
      return;
    }
    const int64_t left = i - local_ + 1, right = i + local_;
    const auto strided = [&](int64_t from, int64_t to) {
      if (shape_ != Shape::kStride) return;
      for (int64_t j = floor_div(std::max(from, next), stride_) * stride_ + stride_ - 1; j < to; j += stride_)
        show(j, j + 1);
    };
    strided(std::max<int64_t>(floor_div(limit.begin, block_q), 0), std::min(left, tiles));
    show(left, right);
    strided(right, tiles);
  }

 private:
  Shape shape_;
  int64_t local_, stride_, sink_;
};

class BlockSparse : public sdk::flash::PatternKernel {
  using Kernel = sdk::flash::PatternKernel;

 public:
  BlockSparse(const tn_host*, const sdk::Hypers& h, const tn_attention_config& config)
      : Kernel("block-sparse-flash", config, true), require_diagonal_(h.flag("require_diagonal")) {
    const int64_t block = h.integer("block");
    if (!std::has_single_bit(static_cast<uint64_t>(block)))
      sdk::fail(TN_E_ARGUMENT,
                "block-sparse-flash: block=" + std::to_string(block) + " is no power of two; 64 is usual");
    const std::string_view pattern = h.text("pattern");
    if (pattern == "none") return;
    narrow(std::make_shared<Generated>(pattern == "butterfly" ? Shape::kButterfly
                                       : pattern == "band"    ? Shape::kBand
                                                              : Shape::kStride,
                                       block, h.integer("local_blocks"), h.integer("vert_stride"),
                                       h.integer("sink_blocks")));
  }

  void plan(const tn_device_api* api, tn_device* device, const tn_attention_shape& shape,
            tn_attention_plan& out) const {
    check_diagonal(shape);
    Kernel::plan(api, device, shape, out);
  }

 private:
  // A row without a tile is legal and gives zeros; it is rarely meant.
  void check_diagonal(const tn_attention_shape& shape) const {
    if (!require_diagonal_) return;
    for (uint32_t t = 0; t < shape.n_mask; ++t) {
      if (shape.mask[t]->kind != TN_MASK_BLOCKS) continue;
      const sdk::flash::MapPattern map(*shape.mask[t], config().n_kv_heads);
      const tn_block_map& m = *shape.mask[t]->blocks;
      std::vector<Run> found;
      for (int64_t g = 0; g < m.n_maps; ++g)
        for (int64_t i = 0; i < m.n_rows; ++i) {
          const int64_t begin = i * m.block_q, end = std::min(begin + m.block_q, m.n_columns * m.block_k);
          found.clear();
          map.runs(g, i, {begin, end}, found);
          if (begin < end && (found.size() != 1 || found[0].begin != begin || found[0].end != end))
            sdk::fail(
                TN_E_ARGUMENT,
                "query tile " + std::to_string(i) +
                    " of the block map does not see its own positions; add the diagonal or set require_diagonal=false");
        }
    }
  }
  bool require_diagonal_;
};

using sdk::integer;
constexpr tn_hyper_info kPattern = sdk::choice("pattern", "butterfly", "butterfly|band|stride|none",
                                               "tiles that every head sees; none: those of the mask alone"),
                        kBlock = integer("block", "64", 16, 4096, "positions", "side of a tile, a power of two"),
                        kLocal = integer("local_blocks", "4", 1, 1 << 20, "tiles",
                                         "band, stride: tiles of the band, its own included"),
                        kStride = integer("vert_stride", "8", 1, 1 << 20, "tiles",
                                          "stride: the last of so many key tiles is seen"),
                        kSink =
                            integer("sink_blocks", "1", 0, 1 << 20, "tiles", "leading key tiles that every row sees"),
                        kDiagonal = sdk::flag("require_diagonal", "true",
                                              "refuse a map in whose mask a query tile does not see its own positions");
constexpr const tn_hyper_info* kHypers[] = {&kPattern, &kBlock, &kLocal, &kStride, &kSink, &kDiagonal};
constexpr tn_attention_api kApi = sdk::attention_api<BlockSparse>();
constexpr tn_attention_form kForm = sdk::attention_form<BlockSparse>();
const void* extension(const char* id) {
  return std::string_view(id) == TN_EXT_ATTENTION_FORM ? &kForm : nullptr;
}
constexpr tn_plugin kPlugin =
    sdk::describe(TN_KIND_ATTENTION, "block-sparse-flash", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::block_sparse

TENON_PLUGIN(tenon::block_sparse::kPlugin)
