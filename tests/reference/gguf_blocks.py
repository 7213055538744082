"""GGUF block types through the gguf package: encode where it can, decode of random blocks for every type."""
import gguf
import numpy as np
from gguf.quants import dequantize, quantize

from golden import noise, save

T = gguf.GGMLQuantizationType
ENCODES = (T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.TQ1_0, T.TQ2_0, T.MXFP4, T.BF16, T.F16)
# Byte offsets of the f16 scales in a block; MXFP4 has one exponent byte at 0.
SCALES = {
    T.Q4_0: (0,), T.Q4_1: (0, 2), T.Q5_0: (0,), T.Q5_1: (0, 2), T.Q8_0: (0,), T.IQ4_NL: (0,), T.IQ4_XS: (0,),
    T.Q2_K: (80, 82), T.Q3_K: (108,), T.Q4_K: (0, 2), T.Q5_K: (0, 2), T.Q6_K: (208,), T.TQ1_0: (52,), T.TQ2_0: (64,),
    T.MXFP4: (), T.BF16: (), T.F16: (),
}


def random_blocks(kind, blocks):
    """Every code byte random; scales moderate, with a subnormal, a negative and a zero one among them."""
    size = gguf.GGML_QUANT_SIZES[kind][1]
    rng = np.random.default_rng(int(kind))
    if kind in (T.BF16, T.F16):
        values = np.concatenate([rng.standard_normal(61), [0.0, -0.0, 6e-8]]).astype(np.float32)
        raw = values.view(np.uint32) >> 16 if kind == T.BF16 else values.astype(np.float16).view(np.uint16)
        return raw.astype("<u2").view(np.uint8).reshape(1, -1)
    raw = rng.integers(0, 256, (blocks, size), dtype=np.uint8)
    for offset in SCALES[kind]:
        scale = (rng.standard_normal(blocks) * 0.1).astype("<f2")
        scale[:3] = (np.float16(6e-6), np.float16(-0.25), np.float16(0.0))
        raw[:, offset:offset + 2] = scale.view(np.uint8).reshape(blocks, 2)
    if kind == T.MXFP4:
        raw[:, 0] = rng.integers(118, 136, blocks)
        raw[0, 0] = 1
    return raw.reshape(1, -1)


# Two rows of 512: octaves by position, a zero block of 32, a constant block, a single spike. Seven values end in a rounding tie of bf16.
x = noise(800, (2, 512)) * (2.0 ** -((np.arange(512) // 64) % 6)).astype(np.float32)
x[0, 32:64], x[0, 64:96], x[1, 0:32], x[1, 5] = 0, 0.375, 0, -2.5
x[1, 40:47] = (np.array([1, 3, 5, 7, 9, 11, 13]) * 2.0**-8 + 1).astype(np.float32)
tensors = {"input": x}
for kind in SCALES:
    if kind in ENCODES:
        tensors[f"{kind.name}.encoded"] = quantize(x, kind).view(np.uint8)
    raw = random_blocks(kind, 8 if gguf.GGML_QUANT_SIZES[kind][0] == 32 else 4)
    tensors[f"{kind.name}.blocks"] = raw
    tensors[f"{kind.name}.decoded"] = dequantize(raw, kind)
assert all(np.isfinite(v).all() for v in tensors.values())
save("gguf-blocks/codec.safetensors", tensors, gguf="0.19.0", ids={k.name: int(k) for k in SCALES})
