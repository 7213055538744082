#!/usr/bin/env python3
"""tenon.torch.Optimizer as a drop-in for torch's own: the same training as torch.optim.AdamW, groups, closures, schedulers, saved states.

    PYTHONPATH=bindings/python TENON_LIBRARY_PATH=build/lib TENON_HOME=build/lib/tenon VENV/bin/python tests/peers/torch_optimizer.py
"""
import io
import time

import torch

import tenon
import tenon.torch


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Linear(64, 8))


def data(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 32, generator=generator)
    return x, torch.sin(x[:, :8] * 2)


def train(net, optimizer, first, last, scheduler=None):
    losses = []
    for step in range(first, last):
        def closure():
            optimizer.zero_grad()
            x, y = data(step)
            loss = torch.nn.functional.mse_loss(net(x), y)
            loss.backward()
            return loss
        losses.append(optimizer.step(closure).item())
        if scheduler:
            scheduler.step()
    return losses


def groups(net):
    matrices = [p for p in net.parameters() if p.ndim == 2]
    return [{"params": matrices, "lr": 2e-3}, {"params": [p for p in net.parameters() if p.ndim < 2]}]


ours, theirs = model(), model()
mine = tenon.torch.Optimizer(groups(ours), "adamw:weight_decay=0.01", lr=1e-3)
peer = torch.optim.AdamW(groups(theirs), lr=1e-3, weight_decay=0.01)
half = [torch.optim.lr_scheduler.StepLR(o, 20, 0.5) for o in (mine, peer)]
a, b = train(ours, mine, 0, 60, half[0]), train(theirs, peer, 0, 60, half[1])
worst = max(abs(x - y) for x, y in zip(a, b))
print(f"adamw: loss {a[0]:.4f} to {a[-1]:.4f}; torch's {b[-1]:.4f}; largest difference of any loss {worst:.2e}")
assert worst < 1e-5 and a[-1] < a[0]

# A saved state through torch.save goes on bit for bit.
whole, parts = model(), model()
straight = train(whole, tenon.torch.Optimizer(whole.parameters(), "adamw8", lr=1e-2), 0, 10)
first = tenon.torch.Optimizer(parts.parameters(), "adamw8", lr=1e-2)
begun = train(parts, first, 0, 5)
file = io.BytesIO()
torch.save({"model": parts.state_dict(), "optimizer": first.state_dict()}, file)
file.seek(0)
saved = torch.load(file, weights_only=True)
again = model()
again.load_state_dict(saved["model"])
second = tenon.torch.Optimizer(again.parameters(), "adamw8", lr=1e-2)
second.load_state_dict(saved["optimizer"])
assert begun + train(again, second, 5, 10) == straight, "resumed training differs"
print(f"adamw8: saved, loaded and resumed bit for bit; {second.state_bytes()} bytes of states")

# GaLore on the matrices, in bf16, with a weight that is not contiguous.
net = model().to(torch.bfloat16)
net[2].weight = torch.nn.Parameter(net[2].weight.detach().t().contiguous().t())
assert not net[2].weight.is_contiguous()
galore = tenon.torch.Optimizer([{"params": [net[0].weight, net[2].weight], "technique": "galore:rank=4,scale=1", "role": "up"},
                                {"params": [net[0].bias, net[2].bias]}], "adamw", lr=1e-2)
before = net[2].weight.detach().clone()
losses = []
for step in range(30):
    x, y = data(0)
    loss = torch.nn.functional.mse_loss(net(x.bfloat16()), y.bfloat16())
    galore.zero_grad()
    loss.backward()
    galore.step()
    losses.append(loss.item())
assert losses[-1] < 0.7 * losses[0] and not torch.equal(before, net[2].weight)
print(f"galore in bf16: loss {losses[0]:.4f} to {losses[-1]:.4f}")


def refused(kind, words, action):
    try:
        action()
    except kind as e:
        assert words in str(e), e
    else:
        raise AssertionError(f"not refused: {words}")


refused(tenon.NotFoundError, "did you mean", lambda: tenon.torch.Optimizer(net.parameters(), "adamv"))
refused(tenon.UnsupportedError, "", lambda: tenon.torch.Optimizer(model().double().parameters(), "adamw"))
refused(ValueError, "negative", lambda: tenon.torch.Optimizer(net.parameters(), "adamw", lr=-1))
refused(ValueError, "is of", lambda: tenon.torch.Optimizer(model().parameters(), "adamw").load_state_dict(second.state_dict()))
refused(ValueError, "not the state_dict", lambda: second.load_state_dict({k: v for k, v in second.state_dict().items() if k != "tenon"}))
embedding = torch.nn.Embedding(8, 4, sparse=True)
sparse = tenon.torch.Optimizer(embedding.parameters(), "sgd", lr=0.1)
embedding(torch.tensor([1])).sum().backward()
refused(tenon.UnsupportedError, "sparse", sparse.step)

# DLPack both ways.
context = tenon.Context()
session = context.session("onednn")
t = session.tensor((3, 4))
view = torch.from_dlpack(t)
view[1, 2] = 5
assert t.numpy()[1, 2] == 5 and tenon.from_dlpack(view).tensor.data == view.data_ptr()
half = session.tensor((3, 4), "bfloat16")
assert torch.from_dlpack(half).dtype == torch.bfloat16
o = session.attention("flash-attention", heads=4, kv_heads=2, head_size=16).forward(*(torch.randn(1, 8, h, 16) for h in (4, 2, 2)))
assert isinstance(o, torch.Tensor) and bool(o.isfinite().all())

# What the way through the binding costs, beside torch's own loop.
big = [torch.nn.Parameter(torch.randn(1024, 1024)) for _ in range(4)]
for p in big:
    p.grad = torch.randn_like(p)
speed = {}
for name, optimizer in (("tenon", tenon.torch.Optimizer(big, "adamw", lr=1e-4)), ("torch", torch.optim.AdamW(big, lr=1e-4, fused=True))):
    for _ in range(3):
        optimizer.step()
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        optimizer.step()
        times.append(time.perf_counter() - begin)
    speed[name] = min(times) * 1e3
print(f"adamw step of 4 x 1024 x 1024: tenon {speed['tenon']:.2f} ms, torch fused {speed['torch']:.2f} ms")
