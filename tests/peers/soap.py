"""SOAP on a 1024 × 1024 weight: a step that refreshes its bases, and ten steps of which one does, with HeavyBall.

The check: the way of six steps (the first gathers statistics alone, on both sides), on a square weight, whose covariances have no free null space.
HeavyBall lifts a covariance by 64 n machine epsilons of its largest eigenvalue before it refreshes a basis: in f32, at n = 1024, by 0.8 %, which
holds most directions where they were. So its way is computed in f64, where nothing of that is left, and its time is taken in f32.
"""
import harness
from tenon_side import Binding
from torch_side import Torch, numpy_of

LR = 1e-3


def gradients_of(case):
    import numpy as np
    rng = np.random.default_rng(8)
    m, n = case.shape
    base = rng.standard_normal((m, n)) * np.linspace(1, 0.05, m)[:, None] * np.linspace(1, 0.1, n)
    return [(base + 0.3 * rng.standard_normal((m, n)) * np.linspace(1, 0.05, m)[:, None]).astype(np.float32) for _ in range(6)]


class Tenon(Binding):
    def build(self, case):
        import numpy as np
        import tenon
        self.gradients = [self.tensor(g) for g in gradients_of(case)]
        self.weight, self.t = self.tensor(np.zeros(tuple(case.shape), np.float32)), 0
        self.optimizer = self.session.optimizer(f"soap:beta1=0.9,beta2=0.95,shampoo_beta=0.95,weight_decay=0,precondition_frequency={case.every}").bind(
            [tenon.Param(tuple(case.shape), role="up")])
        self.every = case.every
        for _ in self.gradients:
            self.step()
        return {"way": self.array(self.weight)}

    def run(self):
        for _ in range(self.every):
            self.step()

    def step(self):
        self.optimizer.step([self.weight], [self.gradients[self.t % 6]], lr=LR)
        self.t += 1


class HeavyBall(Torch):
    packages = ("torch", "heavyball")

    def prepare(self, case):
        import torch
        self.begin(case, torch.float64)
        way = numpy_of(self.weight)
        self.begin(case, torch.float32)
        self.every = case.every
        return {"way": way}

    def begin(self, case, dtype):
        import heavyball
        import torch
        heavyball.utils.compile_mode = None  # its tuned kernels are for GPUs and take minutes to compile
        self.gradients = [torch.from_numpy(g).to(dtype) for g in gradients_of(case)]
        self.weight, self.t = torch.nn.Parameter(torch.zeros(tuple(case.shape), dtype=dtype)), 0
        self.optimizer = heavyball.SOAP([self.weight], lr=LR, betas=(0.9, 0.95), shampoo_beta=0.95, weight_decay=0.0, precondition_frequency=case.every,
                                        max_precond_dim=10000, merge_dims=False, storage_dtype=str(dtype).removeprefix("torch."))
        for _ in self.gradients:
            self.step()

    def run(self):
        for _ in range(self.every):
            self.step()

    def step(self):
        self.weight.grad = self.gradients[self.t % 6]
        self.optimizer.step()
        self.t += 1


def cases(args):
    shape = (64, 64) if args.quick else (1024, 1024)
    m, n = shape
    for every in (1, 10):
        flops = 2 * (m * m * n + m * n * n) + 8 * (m * m * n + m * n * n) // 2  # covariances, and into the bases and back
        name = "SOAP step that refreshes" if every == 1 else f"SOAP, {every} steps, one refresh"
        yield harness.Case(name, harness.all_close(0.1, "ways of 6 steps"), flops=every * flops, repeat=3,
                           shape=shape, every=every)


if __name__ == "__main__":
    harness.main(__doc__, {"tenon": Tenon, "heavyball": HeavyBall}, cases)
