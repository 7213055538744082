"""Large-chunk test-time training after its paper (Test-Time Training Done Right, 2025), in f64 by torch; gradients by autograd.

The fast weights' own gradients are autograd's too: of sum_t lr_t v_t . f(k_t), matrix by matrix. Only the definition is taken over, so that a
sign or a factor lost in a hand-derived formula cannot be lost here as well.
"""
import math

import torch
import torch.nn.functional as F

from golden import noise, save

HIDDEN, HEADS, KV_HEADS, WIDTH, ROWS = 12, 4, 2, 4, 19
NEWTON_SCHULZ = [(4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037), (2.8769, -3.1427, 1.2046), (2.8366, -3.0525, 1.2012)]
SETTINGS = {
    "default": dict(),
    "plain": dict(muon=False, momentum=False),
    "momentum": dict(muon=False, window=4),
    "prenorm": dict(prenorm=True, inter_multi=2),
    "low_rank": dict(low_rank=3, momentum=False, window=0),
}
DEFAULTS = dict(chunk=5, window=7, fw_heads=2, inter_multi=1, low_rank=0, muon=True, momentum=True, prenorm=False, base_lr=0.001)


def rotate(x):
    """[rows, heads, width], pairs (i, i + width / 2) at base 10000."""
    half = x.shape[-1] // 2
    angle = torch.arange(len(x), dtype=torch.float64)[:, None] * torch.tensor([10000.0 ** (-2 * i / x.shape[-1]) for i in range(half)], dtype=torch.float64)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    low, high = x[..., :half], x[..., half:]
    return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)


def orthogonalised(g):
    x = g if g.shape[0] <= g.shape[1] else g.T
    x = x / (x.norm() + 1e-7)
    for a, b, c in NEWTON_SCHULZ:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if g.shape[0] <= g.shape[1] else x.T


def mlp(w, x):
    w0, w1, w2 = w
    return (F.silu(x @ w0.T) * (x @ w2.T)) @ w1.T


def fast_head(s, start, q, k, v, lr, m):
    """One head over one document; start: its three matrices."""
    norms = [w.norm(dim=1, keepdim=True) for w in start]
    use, raw, moving = list(start), list(start), [torch.zeros_like(w) for w in start]
    out = []
    for begin in range(0, len(q), s["chunk"]):
        if begin:
            past = slice(begin - s["chunk"], begin)
            f = mlp(use, k[past])
            for i in range(3):
                (g,) = torch.autograd.grad((lr[past, i, None] * v[past] * f).sum(), use[i], create_graph=True)
                moving[i] = g + (m[past].mean() * moving[i] if s["momentum"] else 0)
            step = [orthogonalised(g) if s["muon"] else g for g in moving]
            raw = [(r if s["prenorm"] else u) + d for r, u, d in zip(raw, use, step)]
            use = [r / (r.norm(dim=1, keepdim=True) + 1e-5) * n for r, n in zip(raw, norms)]
        out.append(mlp(use, q[begin : begin + s["chunk"]]))
    return torch.cat(out)


def layer(s, p, x):
    n, heads = HEADS * WIDTH, s["fw_heads"]
    q, k, v = (x @ p[name].T for name in "qkv")
    wide = [t.reshape(ROWS, -1, WIDTH).repeat_interleave(HEADS // (t.shape[1] // WIDTH), 1).reshape(ROWS, n) for t in (q, k, v)]
    scaled = [t * p["qk_scale.weight"][:, i] + p["qk_offset.weight"][:, i] for i, t in enumerate(wide[:2])]
    fast = [F.silu(t).reshape(ROWS, heads, -1) for t in (*scaled, wide[2])]
    fast[:2] = [t / (t.norm(dim=-1, keepdim=True) + 1e-5) for t in fast[:2]]
    fast[:2] = [rotate(t.reshape(ROWS, HEADS, WIDTH)).reshape(ROWS, heads, -1) for t in fast[:2]]
    lr = F.softplus(x @ p["lr_proj.weight"].T + p["lr_proj.bias"] + s["base_lr"] + math.log(-math.expm1(-s["base_lr"]))).reshape(ROWS, heads, 3)
    m = torch.sigmoid(x @ p["momentum_proj.weight"].T + p["momentum_proj.bias"]) if s["momentum"] else torch.zeros(ROWS, heads)
    gate = F.silu(x @ p["ttt_scale_proj.weight"].T + p["ttt_scale_proj.bias"])
    joined = []
    for h in range(heads):
        def part(name):
            if s["low_rank"] and name != "w1":
                left, right = (p[f"{name}_{side}.weight"].chunk(heads)[h] for side in ("left", "right"))
                return left @ right + 0.5 * torch.eye(left.shape[0], right.shape[1], dtype=torch.float64)
            return p[f"{name}.weight"].chunk(heads)[h]
        o = fast_head(s, [part("w0"), part("w1"), part("w2")], *(t[:, h] for t in fast), lr[:, h], m[:, h])
        joined.append(o * torch.rsqrt(o.pow(2).mean(-1, keepdim=True) + 1e-5) * p["ttt_norm.weight"] * gate[:, h, None])
    total = torch.cat(joined, -1)
    if s["window"]:
        i = torch.arange(ROWS)
        seen = (i[None] <= i[:, None]) & (i[:, None] - i[None] < s["window"])
        rq, rk = rotate(q.reshape(ROWS, HEADS, WIDTH)), rotate(k.reshape(ROWS, KV_HEADS, WIDTH))
        att = F.scaled_dot_product_attention(rq.transpose(0, 1), rk.transpose(0, 1), v.reshape(ROWS, KV_HEADS, WIDTH).transpose(0, 1), attn_mask=seen, enable_gqa=True)
        total = total + att.transpose(0, 1).reshape(ROWS, n)
    return total @ p["o"].T


def shapes(s):
    n, f = HEADS * WIDTH, s["fw_heads"]
    d = n // f
    h = d * s["inter_multi"]
    out = dict(q=(n, HIDDEN), k=(KV_HEADS * WIDTH, HIDDEN), v=(KV_HEADS * WIDTH, HIDDEN), o=(HIDDEN, n))
    for w in ("w0", "w2"):
        out |= {f"{w}_left.weight": (f * h, s["low_rank"]), f"{w}_right.weight": (f * s["low_rank"], d)} if s["low_rank"] else {f"{w}.weight": (f * h, d)}
    out |= {"w1.weight": (f * d, h), "qk_scale.weight": (n, 2), "qk_offset.weight": (n, 2), "ttt_norm.weight": (d,)}
    out |= {"lr_proj.weight": (3 * f, HIDDEN), "lr_proj.bias": (3 * f,)}
    if s["momentum"]:
        out |= {"momentum_proj.weight": (f, HIDDEN), "momentum_proj.bias": (f,)}
    return out | {"ttt_scale_proj.weight": (f, HIDDEN), "ttt_scale_proj.bias": (f,)}


def main():
    tensors, orders = {}, {}
    for label, changes in SETTINGS.items():
        s = DEFAULTS | changes
        p = {}
        for i, (name, shape) in enumerate(shapes(s).items()):
            shift = 1.0 if name in ("qk_scale.weight", "ttt_norm.weight") else 5.0 if name == "lr_proj.bias" else 0.0
            p[name] = (torch.from_numpy(noise(3000 + i, shape)).double() + shift).requires_grad_()
        orders[label] = list(p)
        x = torch.from_numpy(noise(3100, (ROWS, HIDDEN))).double().requires_grad_()
        dy = torch.from_numpy(noise(3101, (ROWS, HIDDEN))).double()
        y = layer(s, p, x)
        (y * dy).sum().backward()
        tensors |= {f"{label}.y": y, f"{label}.dx": x.grad}
        tensors |= {f"{label}.grad.{name}": t.grad for name, t in p.items()}
    save("lact/lact.safetensors", tensors, settings={k: DEFAULTS | v for k, v in SETTINGS.items()}, order=orders, torch=torch.__version__)


main()
