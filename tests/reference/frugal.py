"""The authors' FRUGAL AdamW over the inputs of galore.py, 12 steps, a new choice every 4. The densities 0 and 1 and singular vectors: what
is drawn at random cannot be drawn again elsewhere.

    python frugal.py FOLDER      # of a checkout of fzmushko/FRUGAL at c7ebe4c
"""
import sys

import torch
import torch.optim.optimizer as torch_optimizer
from safetensors.torch import load_file

from golden import DATA, save
from signed_svd import fix_signs

torch_optimizer._dispatch_sqrt = lambda x: x**0.5  # gone from newer versions of torch
sys.path.insert(0, sys.argv[1])
from frugal.adamw import CoordAdamW, GaloreAdamW  # noqa: E402
from frugal.galore_projector import GaLoreProjector  # noqa: E402

STEPS, GAP = 12, 4
SETTINGS = {
    "svd": dict(cls="galore", density=0.25, inactive_update_rule="sign_sgd", inactive_lr_scale=0.5, weight_decay=0.1),
    "svd_sgd": dict(cls="galore", density=0.25, inactive_update_rule="sgd", weight_decay=0.0, proj_params_lr_scale=0.5),
    "all": dict(cls="columns", density=1.0, inactive_update_rule="sign_sgd", weight_decay=0.1),
    "none": dict(cls="columns", density=0.0, inactive_update_rule="sign_sgd", weight_decay=0.1),
}
fix_signs(GaLoreProjector, "_get_orthogonal_matrix")
inputs = load_file(DATA / "galore/galore.safetensors")
tensors = {}
for name in ("tall", "wide"):
    for label, settings in SETTINGS.items():
        settings = dict(settings)
        cls = settings.pop("cls")
        p = torch.nn.Parameter(inputs[f"{name}.start"].clone())
        groups = [dict(params=[p], is_proj_params=True)]
        common = dict(lr=0.01, update_gap=GAP, **settings)
        optimizer = GaloreAdamW(groups, **common) if cls == "galore" else CoordAdamW(groups, coord_choice=cls, **common)
        for step in range(STEPS):
            p.grad = inputs[f"{name}.gradients"][step].float() / 64
            optimizer.step()
            if step in (0, STEPS - 1):
                tensors[f"{name}.{label}.step{step + 1}"] = p.detach().clone()
save("frugal/frugal.safetensors", tensors, settings=SETTINGS, update_gap=GAP, lr=0.01)
