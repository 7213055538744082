"""The AdamW step over one long tensor, f32 and all-bf16: torch plain, foreach and fused. The check: parameters after ten steps.

torch keeps bf16 weights' moments in bf16, Tenon in f32 unless it is told otherwise: both ways are rows, and the second, in which Tenon moves 22 bytes where
torch moves 14, has no aim. Bytes count what Tenon's rule must move, four arrays read and three written; a peer's are counted as if its were the same.
"""
import harness
from tenon_side import Binding
from torch_side import Torch, dtype_of, numpy_of

LR, DECAY = 1e-3, 1e-2


def start(case):
    import numpy as np
    rng = np.random.default_rng(1)
    return rng.standard_normal(case.n, np.float32), rng.standard_normal(case.n, np.float32)


class Tenon(Binding):
    dtypes = {"f32": "float32", "bf16": "bfloat16"}

    def build(self, case):
        import tenon
        weight, gradient = start(case)
        dtype = self.dtypes[case.dtype]
        self.weight, self.gradient = self.tensor(weight, dtype), self.tensor(gradient, dtype)
        self.optimizer = self.session.optimizer(f"adamw:weight_decay={DECAY},state_dtype={case.states}").bind([tenon.Param((case.n,), dtype)])
        for _ in range(10):
            self.run()
        return {"weight": self.array(self.weight)[:case.compared]}

    def run(self):
        self.optimizer.step([self.weight], [self.gradient], lr=LR)


class TorchAdamW(Torch):
    flags = {}

    def prepare(self, case):
        import torch
        weight, gradient = start(case)
        self.weight = torch.nn.Parameter(torch.from_numpy(weight).to(dtype_of(case.dtype)))
        self.weight.grad = torch.from_numpy(gradient).to(self.weight.dtype)
        self.optimizer = torch.optim.AdamW([self.weight], lr=LR, weight_decay=DECAY, **self.flags)
        for _ in range(10):
            self.run()
        return {"weight": numpy_of(self.weight)[:case.compared]}

    def run(self):
        self.optimizer.step()


class Plain(TorchAdamW):
    flags = {"foreach": False, "fused": False}


class Foreach(TorchAdamW):
    flags = {"foreach": True}


class Fused(TorchAdamW):
    flags = {"fused": True}


def cases(args):
    n = 1 << (18 if args.quick else 25)
    # bf16: weight, m and v are rounded by every step of both, and not at the same places of the arithmetic.
    for name, dtype, states, size, tolerance, aim in (("f32", "f32", "f32", 28, 1e-5, 1.0), ("bf16", "bf16", "bf16", 14, 1e-2, 1.8),
                                                      ("bf16 with f32 moments", "bf16", "f32", 22, 1e-2, None)):
        yield harness.Case(f"AdamW step, {name}", harness.all_close(tolerance, "weights after 10 steps"), work=size * n / 1e9, unit="GB/s", bytes=size * n,
                           aim=aim, aim_limit=0.9, dtype=dtype, states=states, n=n, compared=1 << 18)


if __name__ == "__main__":
    harness.main(__doc__, {"tenon": Tenon, "torch fused": Fused, "torch foreach": Foreach, "torch plain": Plain}, cases)
