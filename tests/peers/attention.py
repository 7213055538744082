"""torch's scaled_dot_product_attention on the CPU, causal, grouped heads: forward and backward GFLOP/s.

Forward counts 2·Hq·T²·(d + d)/2 operations (half of the square is masked), backward 2.5 times that.
"""
import torch

import peer

SHAPES = {"smollm2": (9, 3, 64, 1024), "llama": (16, 4, 128, 1024)}  # query heads, key-value heads, head size, tokens

args = peer.parser(__doc__).parse_args()
torch.set_num_threads(args.threads)
torch.manual_seed(1)
actions, flops = {}, {}
for name, (hq, hkv, d, t) in SHAPES.items():
    t = 128 if args.quick else t
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = (torch.randn(1, h, t, d, dtype=dtype, requires_grad=True) for h in (hq, hkv, hkv))
        dout = torch.randn(1, hq, t, d, dtype=dtype)

        def attend(q=q, k=k, v=v):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        def forward(attend=attend):
            with torch.no_grad():
                attend()

        kept = attend()
        key = f"{name}_{'f32' if dtype == torch.float32 else 'bf16'}"
        actions[f"{key}_forward"] = forward
        actions[f"{key}_backward"] = lambda o=kept, x=(q, k, v), g=dout: torch.autograd.grad(o, x, g, retain_graph=True)
        flops[f"{key}_forward"] = 2 * hq * t * t * d
        flops[f"{key}_backward"] = 5 * hq * t * t * d
seconds = peer.interleaved(actions, 2 if args.quick else args.repeat)
figures = {f"{k}_gigaflops": flops[k] / s / 1e9 for k, s in seconds.items()}
peer.report("attention", figures, {"torch": torch.__version__}, args, shapes=SHAPES)
