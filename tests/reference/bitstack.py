"""BitStack's decomposition in f64 with LAPACK's singular values: signs, the magnitudes' best approximation of rank k, the same of what is left.

The factors are rounded to f16 before they are subtracted, and the weight is brought to a mean square of 1 first, as the card says.
"""
import numpy as np

from golden import noise, save

RANK, SEGMENTS = 3, 4
SHAPES = {"wide": (16, 44), "tall": (40, 16)}


def stack(weight, norms):
    scaled = weight.astype(np.float64) * norms
    size = np.sqrt(np.mean(scaled**2))
    left, parts = scaled / size, []
    for _ in range(SEGMENTS):
        sign = np.where(left >= 0, 1.0, -1.0)
        u, s, vt = np.linalg.svd(np.abs(left), full_matrices=False)
        a = (u[:, :RANK] * np.sqrt(s[:RANK])).astype(np.float16).astype(np.float64)
        b = (np.sqrt(s[:RANK])[:, None] * vt[:RANK]).astype(np.float16).astype(np.float64)
        part = sign * (a @ b)
        left = left - part
        parts.append(part * size / norms)
    return np.cumsum(parts, axis=0)


tensors = {}
for i, (name, shape) in enumerate(SHAPES.items()):
    weight = noise(1500 + i, shape)
    norms = 2 ** (2 * noise(1510 + i, (shape[1],))) + np.float32(1e-3)
    tensors[f"{name}.weight"], tensors[f"{name}.norms"] = weight, norms - np.float32(1e-3)
    tensors[f"{name}.alike"] = stack(weight, np.ones(shape[1]))
    tensors[f"{name}.weighed"] = stack(weight, norms.astype(np.float64))
save("bitstack/bitstack.safetensors", tensors, rank=RANK, segments=SEGMENTS)
