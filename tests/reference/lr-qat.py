"""The authors' forward pass of LR-QAT over fixed-point weights, and the gradients that autograd takes through it.

    python lr-qat.py FOLDER        # of a checkout of Qualcomm-AI-research/lr-qat at 8795afe
"""
import pathlib
import sys
from types import SimpleNamespace

import torch

from golden import noise, pieces, save

folder = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(folder / "quantization" / "quantizers"))
from rounding_utils import round_ste_func  # noqa: E402



class ThenTorch:
    """torch with the clamp of its time, whose gradient passes on the bounds too."""

    def __getattr__(self, name):
        return getattr(torch, name)

    @staticmethod
    def clamp(x, low, high):
        return torch.where((x >= low) & (x <= high), x, torch.clamp(x, low, high).detach())


METHOD = SimpleNamespace(lr_qat_fixed_point8="fixed8")
apply_phi, to_fixed, from_fixed = pieces(folder / "quantization" / "hijacker.py", "_apply_lora_qat_w_phi", "_full_precision_to_fixed_point8",
                                         "_fixed_point8_to_full_precision", torch=ThenTorch(), round_ste_func=round_ste_func, LR_QAT_Method=METHOD)
CASES = {"rows": dict(m=5, n=8, T=3, bits=4, group=0, r=2, alpha=4), "groups": dict(m=6, n=16, T=4, bits=3, group=4, r=3, alpha=2), "two": dict(m=4, n=8, T=7, bits=2, group=8, r=1, alpha=1)}


class Layer:
    """The fields of the authors' layer that its forward pass reads."""

    lora_method = METHOD.lr_qat_fixed_point8
    _fixed_point8_to_full_precision = from_fixed

    def __init__(self, c, seed):
        m, n, group = c["m"], c["n"], c["group"] or c["n"]
        low, high = -(2.0 ** (c["bits"] - 1)), 2.0 ** (c["bits"] - 1) - 1
        w = torch.from_numpy(noise(seed, (m, n), 0.5))
        blocks = w.reshape(-1, group)
        scale = (blocks.abs().amax(1, keepdim=True) / high * 0.8).requires_grad_()
        grouped = c["group"] > 0
        quantizer = SimpleNamespace(int_min=low, int_max=high, n_bits=c["bits"], scale=scale, delta=scale)
        self.weight_quantizer = SimpleNamespace(quantizer=quantizer, block_wise_quant=grouped, reshape_tensor=lambda t: t.reshape(-1, group))
        self.original, self.scale = w, scale
        self.weight = to_fixed(self, (blocks / scale.detach()).reshape(m, n))
        self.lora_A = torch.from_numpy(noise(seed + 1, (m, c["r"]), 0.5)).requires_grad_()
        self.lora_Bt = torch.from_numpy(noise(seed + 2, (c["r"], n), 0.5)).requires_grad_()
        self.lora_scaling = c["alpha"] / c["r"]

    def run_forward(self, x, weight, bias, offsets=None):
        self.seen = weight
        return torch.nn.functional.linear(x, weight, bias)


tensors = {}
for i, (name, c) in enumerate(CASES.items()):
    layer = Layer(c, 3400 + 10 * i)
    x = torch.from_numpy(noise(3405 + 10 * i, (c["T"], c["n"]))).requires_grad_()
    dy = torch.from_numpy(noise(3406 + 10 * i, (c["T"], c["m"])))
    y = apply_phi(layer, x, None, None)
    y.backward(dy)
    tensors |= {f"{name}.x": x, f"{name}.dy": dy, f"{name}.y": y, f"{name}.dx": x.grad, f"{name}.weight": layer.original, f"{name}.phi": layer.weight, f"{name}.merged": layer.seen}
    for short, p in (("A", layer.lora_A), ("B", layer.lora_Bt), ("s", layer.scale)):
        tensors |= {f"{name}.{short}": p, f"{name}.d{short}": p.grad}
save("lr-qat/lr-qat.safetensors", tensors, settings=CASES)
