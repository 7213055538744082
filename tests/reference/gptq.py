"""AutoGPTQ's GPTQ over one correlated layer, and the weights as its QuantLinear packs them for files.

    python gptq.py FOLDER      # of a checkout of AutoGPTQ/AutoGPTQ at 9f7d370
"""
import importlib.util
import pathlib
import sys

import numpy as np
import torch
import transformers

from golden import noise, save

M, N, TOKENS = 32, 96, 512
SETTINGS = {
    "b2": dict(bits=2, group_size=32),
    "b3": dict(bits=3, group_size=32),
    "b4": dict(bits=4, group_size=32),
    "b8": dict(bits=8, group_size=32),
    "row": dict(bits=3, group_size=-1),
    "sym": dict(bits=4, group_size=32, sym=True),
    "mse": dict(bits=3, group_size=32, mse=True),
    "act": dict(bits=4, group_size=32, act_order=True),
    "static": dict(bits=3, group_size=32, act_order=True, static_groups=True),
}
transformers.Conv1D = transformers.pytorch_utils.Conv1D  # its place in older versions
torch.cuda.synchronize = lambda: None


def module(path, name):
    spec = importlib.util.spec_from_file_location(name, pathlib.Path(sys.argv[1]) / "auto_gptq" / path, submodule_search_locations=None)
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found
    spec.loader.exec_module(found)
    return found


class Package:  # the files alone, without all that the package's own __init__ imports
    __path__ = []


sys.modules["quantization"] = Package
Quantizer = module("quantization/quantizer.py", "quantization.quantizer").Quantizer
GPTQ = module("quantization/gptq.py", "quantization.gptq").GPTQ
QuantLinear = module("nn_modules/qlinear/qlinear_cuda.py", "qlinear_cuda").QuantLinear


class StoredScales(Quantizer):
    """Codes with the scales that the file holds, which are in f16."""

    def find_params(self, x, weight=False):
        super().find_params(x, weight)
        self.scale = self.scale.half().float()


x = noise(1400, (TOKENS, N)).astype(np.float64)
for j in range(1, N):
    x[:, j] += 0.9 * x[:, j - 1]
x *= np.exp(0.5 * np.sin(12.9898 * np.arange(N)))
x = torch.from_numpy(x.astype(np.float32))
weight = torch.from_numpy(noise(1401, (M, N), 0.25))
tensors = {"gram": (x.double().t() @ x.double()).float()}
for label, s in SETTINGS.items():
    layer = torch.nn.Linear(N, M, bias=False)
    layer.weight.data = weight.clone()
    method = GPTQ(layer)
    method.quantizer = StoredScales()
    method.quantizer.configure(s["bits"], perchannel=True, sym=s.get("sym", False), mse=s.get("mse", False))
    method.add_batch(x, None)
    # Blocks of a group's size: then a group's grid sees all that was compensated before it.
    scale, zero, g_idx = method.fasterquant(blocksize=32, percdamp=0.01, group_size=s["group_size"], actorder=s.get("act_order", False),
                                            static_groups=s.get("static_groups", False))
    packed = QuantLinear(s["bits"], s["group_size"], N, M, False, weight_dtype=torch.float32)
    packed.pack(layer, scale.clone(), zero.clone(), g_idx)
    tensors |= {f"{label}.decoded": layer.weight.data, f"{label}.qweight": packed.qweight, f"{label}.qzeros": packed.qzeros, f"{label}.scales": packed.scales,
                f"{label}.g_idx": g_idx}
save("gptq/gptq.safetensors", tensors, settings=SETTINGS)
