"""Optimizer steps on the CPU: torch's fused AdamW, bitsandbytes' AdamW8bit, and the SVD that GaLore takes at a refresh.

Gigabytes a second count what the rule must move: AdamW in f32 reads 4 and writes 3 arrays (28 bytes an element; all-bf16: 14), AdamW8bit in
f32 moves 16 bytes an element. `copy_gigabytes_per_second` is torch's copy of the same size: the share of the limit is the quotient.
"""
import time

import bitsandbytes as bnb
import torch

import peer


def step_of(cls, n, dtype, **extra):
    p = torch.nn.Parameter(torch.randn(n, dtype=dtype))
    p.grad = torch.randn(n, dtype=dtype)
    return cls([p], lr=1e-3, weight_decay=1e-2, **extra).step


args = peer.parser(__doc__).parse_args()
torch.set_num_threads(args.threads)
torch.manual_seed(1)
n = 1 << (18 if args.quick else 24)
repeat = 2 if args.quick else args.repeat
source, target = torch.randn(n), torch.empty(n)
actions = {
    "copy": lambda: target.copy_(source),
    "adamw_f32": step_of(torch.optim.AdamW, n, torch.float32, fused=True),
    "adamw_bf16": step_of(torch.optim.AdamW, n, torch.bfloat16, fused=True),
    "adamw8_f32": step_of(bnb.optim.AdamW8bit, n, torch.float32),
}
bytes_each = {"copy": 8, "adamw_f32": 28, "adamw_bf16": 14, "adamw8_f32": 16}
seconds = peer.interleaved(actions, repeat)
figures = {f"{k}_gigabytes_per_second": bytes_each[k] * n / t / 1e9 for k, t in seconds.items()}

rows, columns = (256, 704) if args.quick else (2048, 5632)
gradient = torch.randn(rows, columns)
start = time.perf_counter()
torch.linalg.svd(gradient, full_matrices=False)
figures["galore_refresh_seconds"] = time.perf_counter() - start
peer.report("optimizer-step", figures, {"torch": torch.__version__, "bitsandbytes": bnb.__version__}, args, elements=n, svd=[rows, columns])
