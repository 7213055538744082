"""The authors' MKOR in f32 over one linear without a bias, from identities: rank-1 updates, preconditioning, rescaling, SGD with momentum.

    python mkor.py FOLDER        # of a checkout of Mohammad-Mozaffari/mkor at 3a0e3bb
"""
import sys

import torch

sys.path.insert(0, sys.argv[1])
from mkor.mkor import MKOR  # noqa: E402

from golden import noise, save  # noqa: E402

STEPS, M, N, LR = 8, 12, 20, 0.05
layer = torch.nn.Linear(N, M, bias=False)
layer.weight.data.copy_(torch.from_numpy(noise(3700, (M, N))))
mkor = MKOR.__new__(MKOR)  # its constructor asks for a GPU
mkor.modules, mkor.index_dict, mkor.apply_sgd = [layer], {layer: 0}, [False]
mkor.device, mkor.data_type, mkor.stabilization_factor = "cpu", torch.float32, 0.1
mkor.a_reset_factor, mkor.g_reset_factor = {0: False}, {0: False}
mkor.AA_inv, mkor.GG_inv = {0: torch.eye(N)}, {0: torch.eye(M)}
base = torch.optim.SGD([layer.weight], lr=LR, momentum=0.9)
gradients, inputs, outputs, weights = [], [], [], []
for t in range(STEPS):
    g = torch.from_numpy(noise(3710 + t, (M, N)))
    a, d = torch.from_numpy(noise(3730 + t, (1, N), 2.0)), torch.from_numpy(noise(3750 + t, (1, M), 2.0))
    mkor._update_inv_factors({0: a}, mkor.AA_inv, mkor.a_reset_factor)
    mkor._update_inv_factors({0: d}, mkor.GG_inv, mkor.g_reset_factor)
    assert not mkor.a_reset_factor[0] and not mkor.g_reset_factor[0]
    layer.weight.grad = g.clone()
    mkor._update_grad({0: mkor._get_natural_grad(layer, g)})
    base.step()
    gradients.append(g), inputs.append(a[0]), outputs.append(d[0]), weights.append(layer.weight.detach().clone())
save("mkor/mkor.safetensors", {"start": torch.from_numpy(noise(3700, (M, N))), "gradients": torch.stack(gradients), "inputs": torch.stack(inputs), "outputs": torch.stack(outputs),
                               "weights": torch.stack(weights), "right": mkor.AA_inv[0], "left": mkor.GG_inv[0]}, lr=LR)
