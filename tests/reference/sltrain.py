"""The authors' sparse plus low-rank linear: their C++ extension, built here.

    python sltrain.py FOLDER        # of a checkout of andyjm3/SLTrain at 2335d62
"""
import pathlib
import sys

import torch
from torch.utils.cpp_extension import load

from golden import noise, save

sys.modules["sltrain_linear"] = load("sltrain_linear", [str(pathlib.Path(sys.argv[1]) / "sparse-lora" / "sparse_linear.cpp")], extra_cflags=["-O0"])
sys.path.insert(0, str(pathlib.Path(sys.argv[1]) / "splora"))
from splora_linear import SpLoRaLinear  # noqa: E402

CASES = {"wide": dict(m=5, n=7, T=3, r=2, alpha=4, ratio=0.4), "tall": dict(m=40, n=24, T=9, r=4, alpha=32, ratio=0.1), "rank": dict(m=6, n=4, T=5, r=8, alpha=8, ratio=0.5)}

tensors = {}
for i, (name, c) in enumerate(CASES.items()):
    m, n, nnz = c["m"], c["n"], int(c["ratio"] * c["m"] * c["n"])
    layer = SpLoRaLinear(n, m, c["r"], c["ratio"], lora_alpha=c["alpha"], bias=False)
    # The support has the same number in each row, give or take one: row i has entries [i nnz / m, (i + 1) nnz / m).
    columns = []
    for row in range(m):
        count = (row + 1) * nnz // m - row * nnz // m
        order = torch.from_numpy(noise(3100 + 100 * i + row, (n,))).argsort()[:count].sort().values
        columns.append(order)
    layer.sparse_index = torch.cat([row * n + c_ for row, c_ in enumerate(columns)])
    assert layer.sparse_index.numel() == nnz == layer.sparse_value.numel()
    for k, p in enumerate((layer.lora_A, layer.lora_B, layer.sparse_value)):
        p.data.copy_(torch.from_numpy(noise(3090 + 100 * i + k, tuple(p.shape), 0.5)))
    x = torch.from_numpy(noise(3095 + 100 * i, (c["T"], n))).requires_grad_()
    dy = torch.from_numpy(noise(3096 + 100 * i, (c["T"], m)))
    y = layer(x)
    y.backward(dy)
    tensors |= {f"{name}.x": x, f"{name}.dy": dy, f"{name}.y": y, f"{name}.dx": x.grad, f"{name}.columns": torch.cat(columns)}
    for short, p in (("A", layer.lora_A), ("B", layer.lora_B), ("v", layer.sparse_value)):
        tensors |= {f"{name}.{short}": p, f"{name}.d{short}": p.grad}
save("sltrain/sltrain.safetensors", tensors, settings=CASES)
