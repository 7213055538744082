"""The 8-bit AdamW step over one matrix, f32 and bf16 weights: bitsandbytes and torchao on the CPU.

The check: the way that ten steps went. The three round their states by codes of their own (bitsandbytes' CPU encoder is coarse near zero, torchao
spaces its codes otherwise), so every side's way is also held to AdamW with exact states, and may be no farther from it than a few percent.
"""
import harness
from tenon_side import Binding
from torch_side import Torch, dtype_of, numpy_of

LR, DECAY, STEPS = 1e-3, 1e-2, 10


def start(case):
    import numpy as np
    rng = np.random.default_rng(2)
    shape = (case.n // 4096, 4096)
    # As large as weights are: steps of 1e-3 show in bf16.
    return rng.standard_normal(shape, np.float32) * np.float32(0.02), rng.standard_normal(shape, np.float32)


def exact(weight, gradient):
    """AdamW with f64 states over a constant gradient."""
    import numpy as np
    w, g, m, v = weight.astype(np.float64), gradient.astype(np.float64), 0.0, 0.0
    for t in range(1, STEPS + 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w = w * (1 - LR * DECAY) - LR * (m / (1 - 0.9 ** t)) / (np.sqrt(v / (1 - 0.999 ** t)) + 1e-8)
    return w


def way(before, after):
    """What the steps did to the first rows, and what exact states do."""
    rows = slice(0, 16)
    return {"way": after[rows] - before[rows], "exact": exact(before[rows], STARTED[1][rows]) - before[rows]}


STARTED = None


def begin(case):
    global STARTED
    STARTED = start(case)
    return STARTED


class Tenon(Binding):
    dtypes = {"f32": "float32", "bf16": "bfloat16"}

    def build(self, case):
        import tenon
        weight, gradient = begin(case)
        dtype = self.dtypes[case.dtype]
        self.weight, self.gradient = self.tensor(weight, dtype), self.tensor(gradient, dtype)
        self.optimizer = self.session.optimizer(f"adamw8:weight_decay={DECAY}").bind([tenon.Param(weight.shape, dtype, role="up")])
        for _ in range(STEPS):
            self.run()
        return way(weight, self.array(self.weight))

    def run(self):
        self.optimizer.step([self.weight], [self.gradient], lr=LR)


class Peer(Torch):
    def prepare(self, case):
        import torch
        weight, gradient = begin(case)
        self.weight = torch.nn.Parameter(torch.from_numpy(weight.copy()).to(dtype_of(case.dtype)))
        self.weight.grad = torch.from_numpy(gradient).to(self.weight.dtype)
        self.optimizer = self.make([self.weight])
        for _ in range(STEPS):
            self.run()
        return way(weight, numpy_of(self.weight))

    def run(self):
        self.optimizer.step()


class BitsAndBytes(Peer):
    packages = ("torch", "bitsandbytes")

    def make(self, parameters):
        import bitsandbytes
        return bitsandbytes.optim.AdamW8bit(parameters, lr=LR, weight_decay=DECAY)


class TorchAO(Peer):
    packages = ("torch", "torchao")

    def make(self, parameters):
        from torchao.optim import AdamW8bit
        return AdamW8bit(parameters, lr=LR, weight_decay=DECAY)


def compare(tolerance):
    def same(ours, theirs):
        distance, own, other = (harness.relative(a, b) for a, b in ((ours["way"], theirs["way"]), (ours["way"], ours["exact"]), (theirs["way"], theirs["exact"])))
        if not (distance <= tolerance and own <= max(1.05 * other, 0.05)):
            raise harness.Mismatch(f"the ways differ by {distance:.2g}; from exact states tenon by {own:.2g}, the peer by {other:.2g}")
        return f"ways of 10 steps equal to {distance:.1g} (from exact states: {own:.1g} and {other:.1g})"

    return same


def cases(args):
    n = 1 << (18 if args.quick else 24)
    for dtype, size in (("f32", 16), ("bf16", 10)):
        yield harness.Case(f"8-bit AdamW step, {dtype} weights", compare(0.15), work=n / 1e6, unit="M param/s", bytes=size * n, aim=8.0,
                           aim_limit=0.7, dtype=dtype, n=n, repeat=5)


if __name__ == "__main__":
    harness.main(__doc__, {"tenon": Tenon, "bitsandbytes": BitsAndBytes, "torchao": TorchAO}, cases)
