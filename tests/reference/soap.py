"""The authors' SOAP, 9 steps, bases refreshed every 3. On the longer side of a matrix the first eigenvectors are free beyond the
shorter one, so rectangles are preconditioned on their shorter side alone.

    python soap.py FOLDER        # of a checkout of nikhilvyas/SOAP at a1e5535
"""
import importlib.util
import pathlib
import sys

import torch

from golden import noise, save

spec = importlib.util.spec_from_file_location("authors_soap", pathlib.Path(sys.argv[1]) / "soap.py")
authors = importlib.util.module_from_spec(spec)
spec.loader.exec_module(authors)

STEPS, KEPT = 9, (2, 9)
SHAPES = {"square": (32, 32), "tall": (48, 24), "wide": (24, 48), "vector": (40,)}
SETTINGS = {
    "default": dict(lr=3e-3, precondition_frequency=3, max_precond_dim=40),
    "other": dict(lr=0.01, betas=(0.9, 0.99), shampoo_beta=0.8, weight_decay=0.0, precondition_frequency=2, max_precond_dim=40,
                  normalize_grads=True, correct_bias=False),
}


def gradient(index, step, shape):
    """Columns and rows of falling size keep the eigenvalues apart."""
    g = torch.from_numpy(noise(1000 + 20 * index + step, shape)).clone()
    if len(shape) == 2:
        g *= (0.97 ** torch.arange(shape[1]))[None, :] * (0.96 ** torch.arange(shape[0]))[:, None] * 4
    return g.to(torch.float32)


tensors = {}
for i, (name, shape) in enumerate(SHAPES.items()):
    tensors[f"{name}.gradients"] = torch.stack([gradient(i, t, shape) for t in range(1, STEPS + 1)])
    for label, hyper in SETTINGS.items():
        p = torch.nn.Parameter(torch.from_numpy(noise(1100 + i, shape)).clone())
        optimizer = authors.SOAP([p], **hyper)
        for step in range(1, STEPS + 1):
            p.grad = gradient(i, step, shape)
            optimizer.step()
            if step in KEPT:
                tensors[f"{name}.{label}.step{step}"] = p.detach().clone()
save("soap/soap.safetensors", tensors, settings=SETTINGS)
