#include "hosts/trainer/run/features.h"

namespace tenon::trainer {

Catalog open_catalog(std::vector<std::string> stores) {
  Catalog catalog = stores.empty() ? Catalog::open_default() : Catalog(std::move(stores));
  catalog.add_feature({"fused-backward",
                       "update inside backward",
                       {},
                       {{"optimizer:one-at-a-time", "needs an optimizer that can update one parameter at a time; choose another optimizer or drop --fused-backward"}},
                       {{"run:clip-global-norm", "frees each gradient before the global norm is known; pass --clip 0 or drop --fused-backward"},
                        {"run:accumulate", "frees each gradient before the next micro-batch adds to it; pass --accumulate 1 or drop --fused-backward"}}});
  const auto in_rows = [](const char* flag) {
    const std::string drop = std::string("; drop ") + flag;
    return std::pair{std::vector<Relation>{{"attention:row-ranges", "calls attention for some rows against the keys before them; choose an attention that can do that, such as flash-attention" + drop}},
                     std::vector<Relation>{{"adapter:region", "runs blocks in an order of its own, and so does this adapter" + drop},
                                           {"optimizer:own-wgrad", "cuts samples apart, and this optimizer takes gradients sample by sample" + drop}}};
  };
  const auto [stream_needs, stream_conflicts] = in_rows("--streambp");
  catalog.add_feature({"streambp", "backward in slices of rows", {}, stream_needs, stream_conflicts});
  auto [chunk_needs, chunk_conflicts] = in_rows("--seco");
  chunk_conflicts.push_back({"optimizer:drives", "orders a backward pass, and this optimizer has none; drop --seco"});
  catalog.add_feature({"seco", "training in chunks of rows", {}, chunk_needs, chunk_conflicts});
  catalog.add_feature({"act-offload",
                       "saved activations outside of the device's memory",
                       {},
                       {},
                       {{"adapter:region", "moves what the trainer's own order of blocks saves, and this adapter has another; drop --act-offload"},
                        {"optimizer:drives", "moves what waits for a backward pass, and this optimizer has none; drop --act-offload"}}});
  catalog.add_feature({"zero-offload",
                       "updates on the host",
                       {},
                       {},
                       {{"optimizer:drives", "keeps optimizer states and updates on the host, and this optimizer probes the weights on the device; drop --zero-offload"},
                        {"optimizer:own-wgrad", "updates on the host, and this optimizer computes on the device inside the backward pass; drop --zero-offload"},
                        {"optimizer:observes", "updates on the host, and this optimizer observes activations on the device; drop --zero-offload"}}});
  catalog.add_feature({"coded-activations",
                       "coded saved activations",
                       {},
                       {},
                       {{"adapter:region", "codes what the trainer's own order of blocks saves, and this adapter has another; drop --activations"},
                        {"optimizer:drives", "codes what waits for a backward pass, and this optimizer has none; drop --activations"},
                        {"run:seco", "codes what whole passes save, and --seco keeps none; drop one of the two"}}});
  catalog.add_feature({"coded-states",
                       "coded optimizer states",
                       {},
                       {{"optimizer:one-at-a-time", "needs an optimizer that can update one parameter at a time, or all states would have to be decoded at once; choose another optimizer or drop --states"}},
                       {}});
  catalog.add_feature({"quantized-weights",
                       "weights held by a quantizer",
                       {},
                       {{"quantizer:weight", "--quantizer needs a codec of weights, such as nf4; what codes activations, states or caches goes to --activations, --states or --kv-cache"}},
                       {}});
  const char* first = "makes another model out of the one that is loaded; write that with `tenon quantize`, then train it";
  catalog.add_feature({"edited-model",
                       "a model edited after it was loaded",
                       {},
                       {},
                       {{"run:full-tuning", first},
                        {"run:adapter-tuning", first},
                        {"run:scale-tuning", first},
                        {"kind:adapter", "makes another model out of the one that is loaded, which an adapter of that does not fit; drop --adapter-from, or merge the adapter first"},
                        {"attention:sublayer", "edits a model around attention with q, k, v and o, which --attention replaces together with its projections; choose another --attention"}}});
  return catalog;
}

}  // namespace tenon::trainer
