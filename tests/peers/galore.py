"""GaLore on a 2048 × 5632 weight, rank 128, with galore-torch: a step that finds a new subspace, a step within one, and what a step costs when
every 200th finds one.

The check: the update of the first step and of two more within its subspace, on a gradient of 128 directions with distinct strengths. The peer
takes a full SVD for its subspace, Tenon a randomized range finder and warm iterations.
"""
import harness
from tenon_side import Binding
from torch_side import Torch, numpy_of

LR, GAP = 1e-2, 200


def gradient_of(case):
    """Σ 0.97^k u_k v_kᵀ with orthonormal u and v, and a little of everything else."""
    import numpy as np
    rng = np.random.default_rng(6)
    m, n = case.shape
    u, v = (np.linalg.qr(rng.standard_normal((size, case.rank)))[0] for size in (m, n))
    g = (u * 0.97 ** np.arange(case.rank)) @ v.T
    return (g + 1e-8 * rng.standard_normal((m, n))).astype(np.float32) * np.float32(100)


class Tenon(Binding):
    def build(self, case):
        import numpy as np
        import tenon
        g = gradient_of(case)
        self.gradient, self.weight = self.tensor(g), self.tensor(np.zeros_like(g))
        self.optimizer = self.session.optimizer(f"galore:rank={case.rank},update_proj_gap={case.gap},scale=1").bind(
            [tenon.Param(g.shape, role="up")])
        self.run()
        evidence = {"first": self.array(self.weight)[::16]}
        if case.gap > 1:
            self.run()
            self.run()
            evidence["third"] = self.array(self.weight)[::16]
        return evidence

    def run(self):
        self.optimizer.step([self.weight], [self.gradient], lr=LR)


class GaLoreTorch(Torch):
    packages = ("torch", "galore-torch")

    def prepare(self, case):
        import galore_torch
        import torch
        g = torch.from_numpy(gradient_of(case))
        self.weight = torch.nn.Parameter(torch.zeros_like(g))
        self.weight.grad = g
        group = dict(params=[self.weight], rank=case.rank, update_proj_gap=case.gap, scale=1.0, proj_type="std")
        self.optimizer = galore_torch.GaLoreAdamW([group], lr=LR, weight_decay=0.0, no_deprecation_warning=True)
        self.run()
        evidence = {"first": numpy_of(self.weight)[::16]}
        if case.gap > 1:
            self.run()
            self.run()
            evidence["third"] = numpy_of(self.weight)[::16]
        return evidence

    def run(self):
        self.optimizer.step()


def cases(args):
    m, n, rank = (256, 704, 32) if args.quick else (2048, 5632, 128)
    compare = harness.all_close(2e-2, "updates")
    moved = 4 * (3 * m * n + 4 * rank * max(m, n))
    yield harness.Case("GaLore step that refreshes", compare, aim=40, repeat=3, warmup=0, shape=(m, n), rank=rank, gap=1)
    yield harness.Case("GaLore step within its subspace", compare, bytes=moved, flops=4 * rank * m * n, aim=None, shape=(m, n), rank=rank, gap=1 << 20)


def amortised(rows, args):
    """The third row, from the first two: one refresh in GAP steps."""
    if len(rows) < 2:
        return

    def joined(a, b):
        whole = {"seconds": a["seconds"] / GAP + b["seconds"] * (GAP - 1) / GAP, "spread": None, "turns": a["turns"], "peak_bytes": a["peak_bytes"]}
        return {**whole, "value": whole["seconds"]}

    refresh, within = rows
    row = {"case": f"GaLore step, a refresh in {GAP}", "unit": "s", "aim": 3, "aim_memory": None, "peers": [], "tenon": {}}
    if "seconds" in refresh["tenon"] and "seconds" in within["tenon"]:
        row["tenon"] = joined(refresh["tenon"], within["tenon"])
        for a, b in zip(refresh["peers"], within["peers"]):
            peer = {"name": a["name"], "versions": a["versions"], "check": "the two rows above"}
            if "seconds" in a and "seconds" in b:
                peer.update(joined(a, b))
                peer["ratio"] = peer["seconds"] / row["tenon"]["seconds"]
            else:
                peer["problem"] = a.get("problem") or b.get("problem")
            row["peers"].append(peer)
    else:
        row["tenon"] = {"problem": "one of the rows above has no figure"}
    harness.emit(row, args)


if __name__ == "__main__":
    harness.main(__doc__, {"tenon": Tenon, "galore-torch": GaLoreTorch}, cases, after=amortised)
