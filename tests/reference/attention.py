"""Softmax attention by its definition in f64, with gradients by autograd; checked against torch's SDPA where that can do the case."""
import math

import torch

from golden import noise, save

# Layouts: q, o [T, Hq, d|e]; k, v [S, Hkv, d|e]; lse [T, Hq]. Sequences are packed back to back; offsets_q/offsets_k give their bounds.
CASES = {
    "mha": dict(lengths=[(11, 11)], heads=(3, 3), dim=8, causal=False),
    "causal": dict(lengths=[(19, 19)], heads=(4, 2), dim=8, causal=True),
    "mqa": dict(lengths=[(13, 13)], heads=(4, 1), dim=8, causal=True),
    "batch": dict(lengths=[(9, 9), (9, 9)], heads=(4, 2), dim=8, causal=True),
    "ragged": dict(lengths=[(1, 1), (13, 13), (5, 5)], heads=(4, 2), dim=8, causal=True),
    "window": dict(lengths=[(21, 21)], heads=(4, 2), dim=8, causal=True, window=5),
    "ragged_window": dict(lengths=[(12, 12), (3, 3), (8, 8)], heads=(2, 1), dim=8, causal=True, window=4),
    "cross": dict(lengths=[(6, 14)], heads=(4, 2), dim=8, causal=True),  # the last query sees the last key
    "softcap": dict(lengths=[(13, 13)], heads=(4, 2), dim=8, causal=True, softcap=1.5),
    "sink": dict(lengths=[(13, 13)], heads=(4, 2), dim=8, causal=True, sink=True),
    "odd_dim": dict(lengths=[(10, 10)], heads=(2, 1), dim=40, causal=True),
    "value_dim": dict(lengths=[(11, 11)], heads=(2, 2), dim=8, value_dim=12, causal=True, scale=0.5),
    "large_scores": dict(lengths=[(12, 12)], heads=(2, 1), dim=8, causal=True, scale=512.0),
    "empty_rows": dict(lengths=[(7, 3)], heads=(2, 1), dim=8, causal=True),  # queries 0..3 see no key: o = 0, lse = -inf
    "long": dict(lengths=[(67, 67)], heads=(2, 1), dim=4, causal=True),
}


def one_sequence(q, k, v, scale, causal, window, softcap, sink):
    t, s, group = q.shape[0], k.shape[0], q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    scores = torch.einsum("thd,shd->hts", q, k) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    row, col = torch.arange(t)[:, None] + s - t, torch.arange(s)[None]
    visible = torch.ones(t, s, dtype=torch.bool)
    if causal:
        visible &= col <= row
    if window:
        visible &= col > row - window
    scores = scores.masked_fill(~visible, -math.inf)
    if sink is not None:
        scores = torch.cat([scores, sink[:, None, None].expand(-1, t, 1)], dim=2)
    empty = torch.isinf(scores).all(2)
    safe = torch.where(empty[..., None], torch.zeros_like(scores), scores)
    lse = torch.logsumexp(safe, 2)
    p = torch.exp(safe - lse[..., None])
    p = torch.where(empty[..., None], torch.zeros_like(p), p)[..., :s]
    return torch.einsum("hts,she->the", p, v), torch.where(empty, -math.inf, lse).T


def case(index, lengths, heads, dim, causal, value_dim=None, scale=None, window=0, softcap=0.0, sink=False):
    hq, hkv = heads
    value_dim, scale = value_dim or dim, scale or 1 / math.sqrt(dim)
    t, s = (sum(x) for x in zip(*lengths))
    shapes = {"q": (t, hq, dim), "k": (s, hkv, dim), "v": (s, hkv, value_dim), "do": (t, hq, value_dim)}
    if sink:
        shapes["sink"] = (hq,)
    inputs = {n: torch.from_numpy(noise(900 + 10 * index + i, shape, 2.0)) for i, (n, shape) in enumerate(shapes.items())}
    leaves = {n: x.double().requires_grad_(n != "do") for n, x in inputs.items()}
    bounds = torch.tensor([[0, 0]] + list(lengths)).cumsum(0)
    parts = []
    for (q0, k0), (q1, k1) in zip(bounds[:-1].tolist(), bounds[1:].tolist()):
        q, k, v = leaves["q"][q0:q1], leaves["k"][k0:k1], leaves["v"][k0:k1]
        parts.append(one_sequence(q, k, v, scale, causal, window, softcap, leaves.get("sink")))
        if not window and not softcap and not sink and (not causal or q1 - q0 == k1 - k0):
            peer = torch.nn.functional.scaled_dot_product_attention(
                *(x.transpose(0, 1)[None] for x in (q, k, v)), is_causal=causal, scale=scale, enable_gqa=True)
            torch.testing.assert_close(peer[0].transpose(0, 1), parts[-1][0])
    o, lse = (torch.cat(x) for x in zip(*parts))
    (o * leaves["do"]).sum().backward()
    out = inputs | {"o": o, "lse": lse, "offsets_q": bounds[:, 0].int(), "offsets_k": bounds[:, 1].int()}
    out |= {f"d{n}": x.grad for n, x in leaves.items() if x.requires_grad}
    meta = dict(causal=causal, window=window, softcap=softcap, scale=scale)
    return out, meta


tensors, settings = {}, {}
for i, (name, spec) in enumerate(CASES.items()):
    out, settings[name] = case(i, **spec)
    tensors |= {f"{name}.{k}": v for k, v in out.items()}
save("attention/attention.safetensors", tensors, settings=settings, torch=torch.__version__)
