"""The authors' linear with two ranks and one in reserve: output, gradients, and the score of its importance.

    python increlora.py FOLDER        # of a checkout of FeiyuZhang98/IncreLoRA at 51a2d73
"""
import pathlib
import sys
import types

import torch

from golden import noise, save

sys.modules["ipdb"] = types.ModuleType("ipdb")  # its debugger
sys.path.insert(0, str(pathlib.Path(sys.argv[1]) / "loralib"))
from loralib.increlora import SVDLinear  # noqa: E402

M, N, T, RANK, RESERVE, ALPHA = 5, 7, 3, 2, 1, 16
layer = SVDLinear(N, M, r=RANK, lora_alpha=ALPHA, bias=False, merge_weights=False)
layer.add_reserve_param(RESERVE, True)
layer.weight.data.copy_(torch.from_numpy(noise(3900, (M, N))))
a, b = torch.from_numpy(noise(3901, (RANK + RESERVE, N), 0.5)), torch.from_numpy(noise(3902, (M, RANK + RESERVE), 0.5))
e = torch.from_numpy(noise(3903, (RANK,), 0.5))
layer.lora_A[0].data.copy_(a[:RANK]), layer.lora_A[1].data.copy_(a[RANK:])
layer.lora_B[0].data.copy_(b[:, :RANK]), layer.lora_B[1].data.copy_(b[:, RANK:])
layer.lora_E[0].data.copy_(e.unsqueeze(1))
x = torch.from_numpy(noise(3904, (T, N))).requires_grad_()
dy = torch.from_numpy(noise(3905, (T, M)))
y = layer(x)
y.backward(dy)
save("increlora/increlora.safetensors",
     {"weight": layer.weight, "x": x, "dy": dy, "y": y, "dx": x.grad, "A": a, "B": b, "E": torch.cat([e, torch.full((RESERVE,), 1e-5)]),
      "dA": torch.cat([p.grad for p in layer.lora_A]), "dB": torch.cat([p.grad for p in layer.lora_B], 1), "dE": layer.lora_E[0].grad[:, 0], "score": torch.tensor([float(layer.score)])},
     r=RANK, reserve=RESERVE, alpha=ALPHA)
