"""The authors' hypercomplex adapter with rules shared by two adapters, and its gradients.

    python compacter.py FOLDER        # of a checkout of rabeehk/compacter at e123daa
"""
import importlib
import pathlib
import sys
import types

import torch
from transformers.activations import get_activation

from golden import noise, save

package = types.ModuleType("hypercomplex")  # its folder, without what lies around it
package.__path__ = [str(pathlib.Path(sys.argv[1]) / "seq2seq" / "hypercomplex")]
sys.modules["hypercomplex"] = package
PHMLinear = importlib.import_module("hypercomplex.layers").PHMLinear

CASES = {"small": dict(d=8, T=3, N=2, f=2), "odd": dict(d=12, T=5, N=3, f=2), "four": dict(d=64, T=4, N=4, f=4)}


def linear(rules, inputs, outputs, n, seed):
    phm = PHMLinear(inputs, outputs, n, w_init="glorot-uniform", c_init="normal", shared_phm_rule=True, factorized_phm=True)
    phm.set_phm_rule(phm_rule=rules)
    for k, p in enumerate((phm.W_left, phm.W_right, phm.b)):
        p.data.copy_(torch.from_numpy(noise(seed + k, tuple(p.shape), 0.5)))
    return phm


tensors = {}
for i, (name, c) in enumerate(CASES.items()):
    d, n, k = c["d"], c["N"], c["d"] // c["f"]
    rules = torch.nn.Parameter(torch.from_numpy(noise(3000 + 20 * i, (n, n, n), 0.5)))
    down, up = linear(rules, d, k, n, 3001 + 20 * i), linear(rules, k, d, n, 3005 + 20 * i)
    x = torch.from_numpy(noise(3010 + 20 * i, (c["T"], d))).requires_grad_()
    dy = torch.from_numpy(noise(3011 + 20 * i, (c["T"], d)))
    y = x + up(get_activation("gelu_new")(down(x)))
    y.backward(dy)
    tensors |= {f"{name}.x": x, f"{name}.dy": dy, f"{name}.y": y, f"{name}.dx": x.grad, f"{name}.rules": rules, f"{name}.drules": rules.grad}
    for part, phm in (("down", down), ("up", up)):
        for short, p in (("s", phm.W_left), ("t", phm.W_right), ("b", phm.b)):
            tensors |= {f"{name}.{part}.{short}": p, f"{name}.{part}.d{short}": p.grad}
save("compacter/compacter.safetensors", tensors, settings=CASES)
