"""The authors' partial linear. Their parameter is P = W[:, I] / s; the change of weights is s (P - W[:, I] / s).

    python paca.py FOLDER        # of a checkout of WooSunghyeon/paca at be9a806
"""
import pathlib
import sys

import torch

from golden import noise, pieces, save

def same(f):
    return f  # their functions are wrapped for mixed precision on a GPU


prune, linear = pieces(pathlib.Path(sys.argv[1]) / "peft" / "src" / "peft" / "tuners" / "paca" / "layer.py", "prune_activation", "pacalinear", torch=torch, custom_fwd=same, custom_bwd=same)
linear.forward.__globals__["prune_activation"] = prune
CASES = {"wide": dict(m=5, n=7, T=3, r=2, alpha=3), "tall": dict(m=24, n=10, T=9, r=5, alpha=5)}

tensors = {}
for i, (name, c) in enumerate(CASES.items()):
    m, n, r, s = c["m"], c["n"], c["r"], c["alpha"] / c["r"]
    w = torch.from_numpy(noise(3600 + 10 * i, (m, n)))
    delta = torch.from_numpy(noise(3601 + 10 * i, (m, r), 0.5))
    index = torch.from_numpy(noise(3602 + 10 * i, (n,))).argsort()[:r].sort().values
    p = (w[:, index] / s + delta).requires_grad_()
    x = torch.from_numpy(noise(3603 + 10 * i, (1, c["T"], n))).requires_grad_()
    dy = torch.from_numpy(noise(3604 + 10 * i, (1, c["T"], m)))
    resident = w.clone()
    resident[:, index] = s * p.detach()
    y = linear.apply(x, resident, p * s, None, index, False)
    y.backward(dy)
    tensors |= {f"{name}.weight": w, f"{name}.delta": delta, f"{name}.index": index, f"{name}.x": x[0], f"{name}.dy": dy[0], f"{name}.y": y[0], f"{name}.dx": x.grad[0], f"{name}.ddelta": p.grad, f"{name}.merged": resident}
save("paca/paca.safetensors", tensors, settings=CASES)
