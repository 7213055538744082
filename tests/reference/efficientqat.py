"""The fake quantization of EfficientQAT written with torch's operators, f64, and its gradients by torch's autograd.

Roundings and the clamps of scales and zero points are the identity to autograd. The clamp of the codes passes the gradient of codes in range, the
first and the last among them: so did torch's clamp when the paper was written, newer ones stop it at the ends.
"""
import torch

from golden import noise, save

GROUP = 32
SHAPE = (6, 80)  # the last group of a row is half a group


class StraightThrough(torch.autograd.Function):  # x + (y - x).detach() is not exactly y
    @staticmethod
    def forward(ctx, x, y):
        return y.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def straight_through(x, y):
    return StraightThrough.apply(x, y.detach())


def fake_quantize(w, s, z, top):
    s = straight_through(s, s.clamp(1e-4, 1e4))
    z = straight_through(z, z.round().clamp(0, top))
    t = w / s
    q = straight_through(t, t.round()) + z
    q = torch.where((q >= 0) & (q <= top), q, q.detach().clamp(0, top))
    return (q - z) * s, q


tensors = {}
for bits in (2, 3, 4):
    top = 2**bits - 1
    weight, out = torch.from_numpy(noise(1600 + bits, SHAPE)).double(), torch.from_numpy(noise(1610 + bits, SHAPE)).double()
    starts = list(range(0, SHAPE[1], GROUP))
    scales, zeros = torch.zeros(SHAPE[0], len(starts)).double(), torch.zeros(SHAPE[0], len(starts)).double()
    for row in range(SHAPE[0]):
        for g, a in enumerate(starts):
            part = weight[row, a : a + GROUP]
            scales[row, g] = (part.max() - part.min()) / top
            zeros[row, g] = -(part.min() / scales[row, g]).round()
    tensors[f"b{bits}.start.scales"], tensors[f"b{bits}.start.zeros"] = scales.clone(), zeros.clone()
    # Off their start, codes are clipped on both sides and zero points are no integers; f32 numbers, so that every reader has the same.
    scales = (scales * (0.75 + 0.125 * torch.arange(scales.numel()).reshape(scales.shape) % 0.5)).float().double()
    zeros = (zeros + 0.3 * torch.where(torch.arange(zeros.numel()).reshape(zeros.shape) % 2 == 0, 1.0, -1.0)).float().double()
    w, s, z = (t.clone().requires_grad_() for t in (weight, scales, zeros))
    columns = [fake_quantize(w[:, a : a + GROUP], s[:, g : g + 1], z[:, g : g + 1], top) for g, a in enumerate(starts)]
    value = torch.cat([v for v, _ in columns], 1)
    value.backward(out)
    tensors |= {f"b{bits}.weight": weight, f"b{bits}.scales": scales, f"b{bits}.zeros": zeros, f"b{bits}.dw": out, f"b{bits}.value": value,
                f"b{bits}.codes": torch.cat([q for _, q in columns], 1).to(torch.uint8),
                f"b{bits}.gradient.weight": w.grad, f"b{bits}.gradient.scales": s.grad, f"b{bits}.gradient.zeros": z.grad}
save("efficientqat/grid.safetensors", tensors, group=GROUP, torch=torch.__version__)
