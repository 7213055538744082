"""The authors' COSMOS, 6 steps, its Newton-Schulz products in f32 (theirs are in bf16, which hides the rest).

    python cosmos.py FOLDER      # of a checkout of lliu606/COSMOS at 61de180
"""
import sys

import torch

from golden import noise, save

torch.compile = lambda f: f
sys.path.insert(0, sys.argv[1])
import COSMOS_optim  # noqa: E402

torch.Tensor.bfloat16 = torch.Tensor.float
STEPS, KEPT = 6, (1, 2, 6)
SHAPES = {"tall": (48, 32), "wide": (24, 60), "square": (40, 40), "vector": (30,)}
SETTINGS = {
    "default": dict(lr=1e-2, rank=8),
    "readme": dict(lr=2e-2, betas=(0.95, 0.95), lr_ratio=0.2, rank=5, weight_decay=0.1, gamma=0.5),
}


def gradient(index, step, shape):
    """Columns of falling size keep the eigenvalues apart."""
    g = torch.from_numpy(noise(1200 + 20 * index + step, shape)).clone()
    if len(shape) == 2:
        g *= 4 * (0.8 ** torch.arange(shape[1]))[None, :]
    return g.to(torch.float32)


tensors = {}
for i, (name, shape) in enumerate(SHAPES.items()):
    tensors[f"{name}.gradients"] = torch.stack([gradient(i, t, shape) for t in range(1, STEPS + 1)])
    for label, hyper in SETTINGS.items():
        p = torch.nn.Parameter(torch.from_numpy(noise(1300 + i, shape)).clone())
        optimizer = COSMOS_optim.COSMOS([p], **hyper)
        for step in range(1, STEPS + 1):
            p.grad = gradient(i, step, shape)
            optimizer.step()
            if step in KEPT:
                tensors[f"{name}.{label}.step{step}"] = p.detach().clone()
save("cosmos/cosmos.safetensors", tensors, settings=SETTINGS)
