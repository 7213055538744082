"""The Muon step of a 2048 × 2048 weight, five Newton–Schulz iterations: torch.optim.Muon and HeavyBall's.

The check: the direction of the first step, which no momentum rule changes: the gradient, orthogonalised. HeavyBall's polynomials have other
coefficients, for the same products, and leave singular values elsewhere in [0.7, 1.2]. All multiply in bf16, which is Tenon's default and the peers' only way;
the second case shows what Tenon's f32 products cost beside that, and has no aim.
"""
import harness
from tenon_side import Binding
from torch_side import Torch, numpy_of

LR = 0.02


def gradient_of(case):
    import numpy as np
    return np.random.default_rng(7).standard_normal((case.side, case.side), np.float32)


def direction(weight):
    import numpy as np
    return {"direction": (weight / np.linalg.norm(weight.astype(np.float64))).astype(np.float32)}


class Tenon(Binding):
    def build(self, case):
        import numpy as np
        import tenon
        g = gradient_of(case)
        self.gradient, self.weight = self.tensor(g), self.tensor(np.zeros_like(g))
        self.optimizer = self.session.optimizer(f"muon:ns_dtype={case.ns_dtype}").bind([tenon.Param(g.shape, role="up")])
        self.run()
        return direction(self.array(self.weight))

    def run(self):
        self.optimizer.step([self.weight], [self.gradient], lr=LR)


class TorchMuon(Torch):
    def prepare(self, case):
        import torch
        g = torch.from_numpy(gradient_of(case))
        self.weight = torch.nn.Parameter(torch.zeros_like(g))
        self.weight.grad = g
        self.optimizer = self.make([self.weight])
        self.run()
        return direction(numpy_of(self.weight))

    def make(self, parameters):
        import torch
        return torch.optim.Muon(parameters, lr=LR, weight_decay=0.0)

    def run(self):
        self.optimizer.step()


class HeavyBall(TorchMuon):
    packages = ("torch", "heavyball")

    def make(self, parameters):
        import heavyball
        heavyball.utils.compile_mode = None  # its tuned kernels are for GPUs and take minutes to compile
        return heavyball.Muon(parameters, lr=LR)

    def run(self):
        gradient = self.weight.grad
        self.optimizer.step()
        self.weight.grad = gradient  # it takes them away


def cases(args):
    side = 256 if args.quick else 2048
    # Of an iteration's three products two are symmetric: d³ each instead of 2 d³.
    flops = 5 * 4 * side ** 3
    for dtype in ("bf16", "f32"):
        compare = {"torch": harness.all_close(5e-2, "directions"), "heavyball": harness.all_close(0.35, "directions, by other coefficients,")}
        more_exact = dtype == "f32"
        yield harness.Case(f"Muon step, {side} × {side}, " + ("tenon's products in f32, the peers' in bf16" if more_exact else "products in bf16"), compare,
                           flops=flops, flops_type=dtype, aim=None if more_exact else 1.3, repeat=5, side=side, ns_dtype=dtype)


if __name__ == "__main__":
    harness.main(__doc__, {"tenon": Tenon, "torch": TorchMuon, "heavyball": HeavyBall}, cases)
