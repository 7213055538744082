"""What the generators share: reproducible noise, the place and the form of the committed data."""
import json
import pathlib
import struct

import numpy as np

DATA = pathlib.Path(__file__).resolve().parent / "data"
DTYPES = {"float32": "F32", "uint8": "U8", "int8": "I8", "int32": "I32"}


def noise(seed, shape, scale=1.0):
    """Bell-shaped numbers in (-2, 2) with variance 1/3, exact in f32, the same in every language.

    Element i is the sum of the four 16-bit parts of splitmix64(seed * 2^32 + i), minus 131070, over 65536. `scale` is a power of two.
    """
    n = int(np.prod(shape, dtype=np.int64))
    with np.errstate(over="ignore"):
        z = np.uint64(seed) * np.uint64(1 << 32) + np.arange(n, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    total = sum(((z >> np.uint64(16 * k)) & np.uint64(0xFFFF)).astype(np.int64) for k in range(4))
    return ((total - 131070) / 65536.0 * scale).astype(np.float32).reshape(shape)


def save(path, tensors, **metadata):
    """Writes data/<path>. Tensors may be torch's or numpy's; f64 becomes f32. Metadata values are stored as JSON text."""
    target = DATA / path
    target.parent.mkdir(parents=True, exist_ok=True)
    out = {}
    for name, t in sorted(tensors.items()):
        a = t.detach().cpu().numpy() if hasattr(t, "detach") else np.asarray(t)
        if a.dtype == np.float64:
            a = a.astype(np.float32)
        if a.dtype == np.int64:
            a = a.astype(np.int32)
        out[name] = np.ascontiguousarray(a)
    # Written here, not by the package, which shuffles the metadata: the same numbers must give the same bytes.
    header, offset = {"__metadata__": {k: json.dumps(v, sort_keys=True) for k, v in sorted(metadata.items())}}, 0
    out = dict(sorted(out.items(), key=lambda item: -item[1].itemsize))  # wide elements first keeps all of them aligned
    for name, a in out.items():
        header[name] = dict(dtype=DTYPES[a.dtype.name], shape=list(a.shape), data_offsets=[offset, offset + a.nbytes])
        offset += a.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    target.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in out.values()))
    print(f"{path}: {len(out)} tensors, {target.stat().st_size} bytes")


def pieces(path, *names, **globals_):
    """Functions and classes of a source file, by name, without running the file: what surrounds them may need hardware or packages of
    another age. `globals_` is what they see beside each other."""
    import ast

    tree = ast.parse(pathlib.Path(path).read_text())
    found = {n.name: n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name in names}
    space = dict(globals_)
    for name in names:
        exec(compile(ast.Module([found[name]], []), str(path), "exec"), space)
    return [space[name] for name in names]
