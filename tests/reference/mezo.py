"""The authors' MeZO step over a quadratic, with this project's noise in place of torch's generator.

    python mezo.py FOLDER        # of a checkout of princeton-nlp/MeZO at 552cb1b
"""
import math
import pathlib
import sys
from statistics import NormalDist
from types import SimpleNamespace

import numpy as np
import torch

from golden import noise, pieces, save

perturb, step, update = pieces(pathlib.Path(sys.argv[1]) / "large_models" / "trainer.py", "zo_perturb_parameters", "zo_step", "zo_update",
                               torch=SimpleNamespace(manual_seed=lambda s: None, normal=None), np=np)
world = step.__globals__
SHAPES = {"weight": (9, 31), "layer_norm.weight": (40,)}
SETTINGS = {"default": dict(lr=2e-3, weight_decay=0.0), "decay": dict(lr=1e-3, weight_decay=0.1)}
STEPS, EPS, RUN_SEED = 12, 1e-3, 1
MASK = (1 << 64) - 1


def philox(seed, uid, stream, block):
    c, k = [block & 0xFFFFFFFF, block >> 32, uid, stream], [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


QUANTILES = np.array([NormalDist().inv_cdf((k + 0.5) / 4096) for k in range(4096)])
TABLE = (QUANTILES / math.sqrt(np.mean(QUANTILES**2))).astype(np.float32)


def z_of(seed, uid, count):
    halves = [h for b in range((count + 7) // 8) for w in philox(seed, uid, 0, b) for h in (w & 0xFFFF, w >> 16)]
    return TABLE[np.array(halves[:count]) >> 4]


def step_seed(t):
    x = (RUN_SEED + 0x9E3779B97F4A7C15 * (t + 0x7A65726F746801)) & MASK
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & MASK
    return x ^ x >> 31


class Trainer:
    zo_perturb_parameters, zo_step, zo_update = perturb, step, update

    def __init__(self, lr, weight_decay):
        self.args = SimpleNamespace(zo_eps=EPS, weight_decay=weight_decay, gradient_accumulation_steps=1)
        self.lr_scheduler, self.lr = SimpleNamespace(step=lambda: None), lr

    def _get_learning_rate(self):
        return self.lr

    def zo_forward(self, model, inputs):
        """Half the sum of a (w - goal)^2 in f64, so that a difference of losses is one."""
        return sum((0.5 * a * (p.data.double() - goal) ** 2).sum() for p, (a, goal) in zip(model.parameters(), inputs))


tensors = {}
for label, hyper in SETTINGS.items():
    model = SimpleNamespace()
    params = {n: torch.nn.Parameter(torch.from_numpy(noise(3800 + i, s))) for i, (n, s) in enumerate(SHAPES.items())}
    model.named_parameters, model.parameters = lambda: params.items(), lambda: params.values()
    inputs = [(torch.from_numpy(noise(3810 + i, s)).double().abs() + 0.2, torch.from_numpy(noise(3820 + i, s)).double()) for i, s in enumerate(SHAPES.values())]
    trainer, gradients = Trainer(**hyper), []
    for t in range(1, STEPS + 1):
        draws = []

        def normal(mean, std, size, device, dtype):
            if not draws:
                draws.extend(range(len(SHAPES)))
            uid = draws.pop(0)
            return torch.from_numpy(z_of(step_seed(t), uid, math.prod(size)).reshape(tuple(size)).copy())

        world["torch"].normal = normal
        trainer.zo_step(model, inputs)
        trainer.zo_update(model)
        gradients.append(trainer.projected_grad)
    tensors[f"{label}.projected"] = torch.tensor(gradients)
    for i, p in enumerate(params.values()):
        tensors[f"{label}.{i}"] = p.detach()
tensors["z"] = torch.from_numpy(z_of(step_seed(1), 0, 9 * 31).copy())
save("mezo/mezo.safetensors", tensors, settings=SETTINGS, steps=STEPS, eps=EPS)
