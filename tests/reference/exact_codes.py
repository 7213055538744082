"""Makes bitsandbytes choose the nearest 8-bit code on the CPU.

Its native CPU encoder looks codes up in a coarse table: near zero it is several codes off, and 0 does not come back as 0. Inputs of a
type that the native code lacks take the package's own nearest-entry search, which is the documented rule and what its GPU kernels do.
"""
import bitsandbytes.backends.cpu.ops as cpu
import bitsandbytes.functional as F
import torch

_native = F.quantize_blockwise


def quantize_blockwise(a, *args, **kwargs):
    codes, state = _native(a, *args, **kwargs)
    exact, _ = torch.ops.bitsandbytes.quantize_blockwise(a.double(), state.code, state.blocksize)
    return codes.copy_(exact), state


def _requantize(a, code, absmax_out, out, blocksize):
    codes, absmax = torch.ops.bitsandbytes.quantize_blockwise(a.double(), code, blocksize)
    out.copy_(codes)
    absmax_out.copy_(absmax)


F.quantize_blockwise = quantize_blockwise
cpu._quant_blockwise_fp32_direct = _requantize
