"""bitsandbytes AdamW8bit on its CPU backend (nearest codes), the 8-bit code books, and the blockwise 8-bit codec."""
import bitsandbytes as bnb
import bitsandbytes.functional as F
import torch

import exact_codes  # noqa: F401: patches bitsandbytes
from golden import noise, save

STEPS = 10
KEPT = (1, 10)
N = 4353  # 17 blocks and one element
SETTINGS = {
    "no_decay": dict(lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0),
    "decay": dict(lr=1e-2, betas=(0.9, 0.95), eps=1e-6, weight_decay=0.1),
}
BLOCKSIZES = (64, 128, 256, 512, 1024, 2048, 4096)


def gradient(step):
    """noise(400 + step) * 2^-e, e = 0..7 by (i div 64) mod 8, so that a block of 256 spans four octaves; block 3 is zero."""
    g = torch.from_numpy(noise(400 + step, (N,)))
    i = torch.arange(N)
    g *= 2.0 ** -((i // 64) % 8)
    g[768:1024] = 0
    return g


def optimizer_vectors():
    tensors = {}
    for label, hyper in SETTINGS.items():
        p = torch.nn.Parameter(torch.from_numpy(noise(300, (N,))))
        optimizer = bnb.optim.AdamW8bit([p], **hyper)
        absmax = {1: [], 2: []}
        for step in range(1, STEPS + 1):
            p.grad = gradient(step)
            optimizer.step()
            state = optimizer.state[p]
            for k in (1, 2):
                absmax[k].append(state[f"absmax{k}"].clone())
            if step in KEPT:
                tensors[f"{label}.step{step}.params"] = p.detach().clone()
                tensors[f"{label}.step{step}.m_codes"] = state["state1"].clone()
                tensors[f"{label}.step{step}.v_codes"] = state["state2"].clone()
        tensors[f"{label}.m_absmax"] = torch.stack(absmax[1])
        tensors[f"{label}.v_absmax"] = torch.stack(absmax[2])
    save("adamw8/adamw8.safetensors", tensors, settings=SETTINGS, bitsandbytes=bnb.__version__)


def codec_vectors():
    books = {"signed": F.create_dynamic_map(signed=True), "unsigned": F.create_dynamic_map(signed=False)}
    tensors = {f"book.{k}": v for k, v in books.items()}
    x = torch.from_numpy(noise(500, (N,))) * 2.0 ** -((torch.arange(N) // 64) % 8)
    x[128:192] = 0  # a zero block of 64
    x[4352] = -3.0  # the last block holds one element for every blocksize up to 256
    for sign, book in books.items():
        values = x if sign == "signed" else x * x
        for blocksize in BLOCKSIZES:
            codes, state = F.quantize_blockwise(values, code=book, blocksize=blocksize)
            tensors[f"{sign}.{blocksize}.codes"] = codes
            tensors[f"{sign}.{blocksize}.absmax"] = state.absmax
    tensors["signed.256.decoded"] = F.dequantize_blockwise(*F.quantize_blockwise(x, code=books["signed"], blocksize=256))
    tensors["input"] = x
    save("blockwise-8bit/codec.safetensors", tensors, bitsandbytes=bnb.__version__)


optimizer_vectors()
codec_vectors()
