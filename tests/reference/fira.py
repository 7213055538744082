"""The authors' Fira AdamW over the inputs of galore.py, 12 steps with three subspaces, whose signs are fixed as there.

    python fira.py FOLDER        # of a checkout of xichen-fy/Fira at 5c28b13
"""
import sys

import torch
from safetensors.torch import load_file

from golden import DATA, save
from signed_svd import fix_signs

sys.path.insert(0, sys.argv[1])
from optimizer_torch.fira_adamw import AdamW  # noqa: E402
from optimizer_torch.gradient_projection import GradientProjector  # noqa: E402

STEPS, RANK, GAP = 12, 8, 4
KEPT = (1, 2, 12)
SETTINGS = {
    "compat": dict(lr=0.01, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0, alpha=0.25),
    "whole": dict(lr=0.02, betas=(0.9, 0.95), eps=1e-6, weight_decay=0.1, alpha=1.0),
}
fix_signs(GradientProjector, "get_orthogonal_matrix")
inputs = load_file(DATA / "galore/galore.safetensors")
tensors = {}
for name in ("tall", "wide", "square"):
    for label, hyper in SETTINGS.items():
        hyper = dict(hyper)
        p = torch.nn.Parameter(inputs[f"{name}.start"].clone())
        group = dict(params=[p], rank=RANK, update_proj_gap=GAP, alpha=hyper.pop("alpha"), proj_type="std")
        optimizer = AdamW([group], no_deprecation_warning=True, **hyper)
        for step in range(1, STEPS + 1):
            p.grad = inputs[f"{name}.gradients"][step - 1].float() / 64
            optimizer.step()
            if step in KEPT:
                tensors[f"{name}.{label}.step{step}"] = p.detach().clone()
save("fira/fira.safetensors", tensors, settings=SETTINGS, rank=RANK, update_proj_gap=GAP)
