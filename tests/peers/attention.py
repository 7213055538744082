"""Causal attention of SmolLM2 (9 query heads, 3 key heads, 64 wide) over 512 to 8192 tokens, forward and backward, f32 and bf16: torch's
scaled_dot_product_attention.

The check: the outputs, and all three gradients. Operations are those that the causal mask leaves: 2·Hq·T²·d forward, 2.5 times that backward.
"""
import harness
from tenon_side import Binding
from torch_side import Torch, dtype_of, numpy_of

HEADS, KV_HEADS, WIDTH = 9, 3, 64


def inputs(case):
    import numpy as np
    rng = np.random.default_rng(5)
    return [rng.standard_normal((1, case.tokens, heads, WIDTH), np.float32) for heads in (HEADS, KV_HEADS, KV_HEADS, HEADS)]


class Tenon(Binding):
    dtypes = {"f32": "float32", "bf16": "bfloat16"}

    def build(self, case):
        dtype = self.dtypes[case.dtype]
        self.backward = case.backward
        self.q, self.k, self.v, self.d_o = (self.tensor(a, dtype) for a in inputs(case))
        self.o, self.lse = self.session.tensor(self.q.shape, dtype), self.session.tensor((1, HEADS, case.tokens))
        self.gradients = [self.session.tensor(t.shape, dtype) for t in (self.q, self.k, self.v)]
        self.kernel = self.session.attention("flash-attention", heads=HEADS, kv_heads=KV_HEADS, head_size=WIDTH)
        self.forward()
        evidence = {"o": self.array(self.o)}
        if self.backward:
            self.run()
            evidence |= {name: self.array(t) for name, t in zip(("dq", "dk", "dv"), self.gradients)}
        return evidence

    def forward(self):
        self.kernel.forward(self.q, self.k, self.v, out=self.o, lse=self.lse)

    def run(self):
        if self.backward:
            self.kernel.backward(self.q, self.k, self.v, self.o, self.lse, self.d_o, out=self.gradients)
        else:
            self.forward()


class TorchAttention(Torch):
    def prepare(self, case):
        import torch
        self.backward = case.backward
        # torch's own layout, [B, H, T, d] and dense: what it is fastest with.
        self.q, self.k, self.v, self.d_o = (torch.from_numpy(a).transpose(1, 2).contiguous().to(dtype_of(case.dtype)) for a in inputs(case))
        if self.backward:
            for t in (self.q, self.k, self.v):
                t.requires_grad_()
            self.o = self.attend()
            self.run()
            evidence = {"o": self.o, **dict(zip(("dq", "dk", "dv"), self.gradients))}
        else:
            self.run()
            evidence = {"o": self.o}
        return {name: numpy_of(t.transpose(1, 2)) for name, t in evidence.items()}

    def attend(self):
        import torch
        return torch.nn.functional.scaled_dot_product_attention(self.q, self.k, self.v, is_causal=True, enable_gqa=True)

    def run(self):
        import torch
        if self.backward:
            self.gradients = torch.autograd.grad(self.o, (self.q, self.k, self.v), self.d_o, retain_graph=True)
        else:
            with torch.no_grad():
                self.o = self.attend()


def cases(args):
    for tokens in (64, 128) if args.quick else (512, 1024, 2048, 4096, 8192):
        for dtype, tolerance in (("f32", 1e-4), ("bf16", 2e-2)):
            if dtype == "bf16" and tokens in (1024, 4096):
                continue  # time
            for backward in (False, True):
                flops = (5 if backward else 2) * HEADS * tokens * tokens * WIDTH
                yield harness.Case(f"attention {'backward' if backward else 'forward'}, {dtype}, {tokens} tokens", harness.all_close(tolerance, "results"),
                                   work=flops / 1e9, unit="GFLOP/s", flops=flops, flops_type=dtype, aim=1.5 if backward else 1.3,
                                   aim_limit=0.6, warmup=2, tokens=tokens, dtype=dtype, backward=backward)


if __name__ == "__main__":
    harness.main(__doc__, {"tenon": Tenon, "torch SDPA": TorchAttention}, cases)
