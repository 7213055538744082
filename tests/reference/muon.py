"""torch.optim.Muon, 6 steps: as it is (products in bf16) and with its products in f32, where rounding hides nothing."""
import torch
import torch.optim._muon as torch_muon

from golden import noise, save

STEPS, KEPT = 6, (1, 6)
SHAPES = {"tall": (48, 32), "wide": (24, 64), "square": (40, 40)}
SETTINGS = {
    "default": dict(lr=0.02, weight_decay=0.0),
    "plain": dict(lr=0.01, weight_decay=0.1, momentum=0.8, nesterov=False, ns_steps=4),
    "match_rms": dict(lr=1e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
}


class InF32:
    """torch, but its bfloat16 is float32."""

    bfloat16 = torch.float32

    def __getattr__(self, name):
        return getattr(torch, name)


def run(index, shape, hyper, f32):
    torch_muon.torch = InF32() if f32 else torch
    p = torch.nn.Parameter(torch.from_numpy(noise(800 + index, shape)).clone())
    optimizer = torch.optim.Muon([p], **hyper)
    path = {}
    for step in range(1, STEPS + 1):
        p.grad = torch.from_numpy(noise(810 + 10 * index + step, shape)).clone()
        optimizer.step()
        if step in KEPT:
            path[step] = p.detach().clone()
    return path


tensors = {}
for i, (name, shape) in enumerate(SHAPES.items()):
    for label, hyper in SETTINGS.items():
        for step, value in run(i, shape, hyper, True).items():
            tensors[f"{name}.{label}.f32.step{step}"] = value
    tensors[f"{name}.default.bf16.step1"] = run(i, shape, SETTINGS["default"], False)[1]
save("muon/muon.safetensors", tensors, settings=SETTINGS, torch=torch.__version__)
