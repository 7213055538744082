"""bitsandbytes 4-bit codecs (nf4, fp4), with and without double quantization, and the state dict of a Linear4bit."""
import bitsandbytes as bnb
import bitsandbytes.functional as F
import torch

import exact_codes  # noqa: F401: patches bitsandbytes
from golden import noise, save

BLOCKSIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
SHAPES = {"n1": (1,), "n7": (7,), "odd": (33, 129), "matrix": (96, 40)}


def source(name, shape):
    """Octaves by position, so that blocks differ; in `matrix` elements 64..127 are zero (a whole block of 64)."""
    x = torch.from_numpy(noise(600 + list(SHAPES).index(name), shape))
    flat = x.view(-1)
    flat *= 2.0 ** -((torch.arange(flat.numel()) // 96) % 5)
    if name == "matrix":
        flat[64:128] = 0
    return x


def codec_vectors():
    tensors = {}
    for name, shape in SHAPES.items():
        x = source(name, shape)
        tensors[f"{name}.input"] = x
        for kind in ("nf4", "fp4"):
            for blocksize in BLOCKSIZES:
                if name != "odd" and blocksize != 64:
                    continue
                packed, state = F.quantize_4bit(x, blocksize=blocksize, quant_type=kind)
                key = f"{name}.{kind}.{blocksize}"
                tensors[f"{key}.packed"] = packed.view(-1)
                tensors[f"{key}.absmax"] = state.absmax
                if blocksize == 64:
                    tensors[f"{key}.decoded"] = F.dequantize_4bit(packed, state)
                if blocksize in (32, 64) and x.numel() > 7:
                    packed, state = F.quantize_4bit(x, blocksize=blocksize, quant_type=kind, compress_statistics=True)
                    tensors[f"{key}.double.absmax_codes"] = state.absmax
                    tensors[f"{key}.double.nested_absmax"] = state.state2.absmax
                    tensors[f"{key}.double.offset"] = state.offset.reshape(1)
                    tensors[f"{key}.double.decoded_absmax"] = (
                        F.dequantize_blockwise(state.absmax, state.state2) + state.offset)
    for kind in ("nf4", "fp4"):
        tensors[f"book.{kind}"] = F.get_4bit_type(kind, device="cpu")
    save("nf4/codec.safetensors", tensors, bitsandbytes=bnb.__version__)


def saved_layer():
    """A Linear4bit(40 -> 24, bias) with double quantization, stored under the keys that bitsandbytes and transformers use."""
    for kind in ("nf4", "fp4"):
        layer = bnb.nn.Linear4bit(40, 24, bias=True, compute_dtype=torch.float32, quant_type=kind, compress_statistics=True)
        weight = torch.from_numpy(noise(620, (24, 40)))
        layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type=kind, compress_statistics=True)
        layer.bias = torch.nn.Parameter(torch.from_numpy(noise(621, (24,))))
        layer.to("cpu")
        if layer.weight.quant_state is None:
            layer.weight = layer.weight._quantize("cpu")
        tensors = {f"layer.{k}": v for k, v in layer.state_dict().items()}
        tensors["original"] = weight
        tensors["decoded"] = F.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        save(f"nf4/linear-{kind}.safetensors", tensors, bitsandbytes=bnb.__version__)


codec_vectors()
saved_layer()
