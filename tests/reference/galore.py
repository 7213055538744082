"""galore_torch AdamW and AdamW8bit, 12 steps with three subspaces, whose signs signed_svd.py fixes."""
import galore_torch
import torch
from galore_torch.galore_projector import GaLoreProjector

import exact_codes  # noqa: F401: patches bitsandbytes
from golden import noise, save
from signed_svd import fix_signs

STEPS, RANK, GAP, SCALE = 12, 8, 4, 0.25
KEPT = (1, 12)
SHAPES = {"tall": (64, 48), "wide": (48, 64), "square": (40, 40)}
SETTINGS = {
    "adamw": dict(lr=0.01, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0),
    "decay": dict(lr=0.02, betas=(0.9, 0.95), eps=1e-6, weight_decay=0.1),
}
EIGHT_BIT = dict(lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)  # projected states of 256 elements and more in 8 bits

torch.cuda.synchronize = lambda *a: None  # the 8-bit optimizer calls it even on the CPU
fix_signs(GaLoreProjector, "get_orthogonal_matrix")


def gradients(index, shape):
    """Integers in int8: 12 directions, each 0.7 of the one before, turning slowly from step to step, plus rounding."""
    m, n = shape
    seed = 700 + 20 * index
    left, right = (torch.from_numpy(noise(seed + k, (12, size))).double() for k, size in enumerate((m, n)))
    turn_left, turn_right = (torch.from_numpy(noise(seed + 2 + k, (12, size))).double() for k, size in enumerate((m, n)))
    weight = 0.7 ** torch.arange(12, dtype=torch.float64)
    out = []
    for step in range(STEPS):
        angle = 0.06 * step
        a, b = left + angle * turn_left, right + angle * turn_right
        g = torch.einsum("k,km,kn->mn", weight, a, b)
        out.append((g * (-1) ** (step == 6) * 20).round().clamp(-127, 127).to(torch.int8))
    return torch.stack(out)


def run(cls, start, grads, hyper, **extra):
    p = torch.nn.Parameter(start.clone())
    group = dict(params=[p], rank=RANK, update_proj_gap=GAP, scale=SCALE, proj_type="std")
    optimizer = cls([group], **hyper, **extra)
    path, bases = {}, []
    for step, g in enumerate(grads, 1):
        p.grad = g.float() / 64
        optimizer.step()
        if step in KEPT:
            path[f"step{step}.params"] = p.detach().clone()
        if (step - 1) % GAP == 0:
            bases.append(optimizer.state[p]["projector"].ortho_matrix.clone())
    return path, torch.stack(bases)


tensors = {}
for i, (name, shape) in enumerate(SHAPES.items()):
    start = torch.from_numpy(noise(690 + i, shape))
    grads = gradients(i, shape)
    tensors[f"{name}.start"], tensors[f"{name}.gradients"] = start, grads
    for label, hyper in SETTINGS.items():
        path, bases = run(galore_torch.GaLoreAdamW, start, grads, hyper, no_deprecation_warning=True)
        if label == "adamw":
            tensors[f"{name}.projector"] = bases
            tensors |= {f"{name}.{label}.{k}": v for k, v in path.items()}
        elif name == "tall":
            tensors[f"{name}.{label}.step12.params"] = path["step12.params"]
    path, _ = run(galore_torch.GaLoreAdamW8bit, start, grads, EIGHT_BIT, min_8bit_size=256)
    tensors[f"{name}.adamw8.step12.params"] = path["step12.params"]
    values = torch.linalg.svdvals(grads[0].float())
    print(name, "singular values", [round(float(v), 1) for v in values[6:10]])
save("galore/galore.safetensors", tensors, settings=SETTINGS | {"adamw8": EIGHT_BIT}, rank=RANK, update_proj_gap=GAP, scale=SCALE, galore_torch="1.0")
