"""torch.optim.SGD and torch.optim.AdamW over 20 steps, several settings."""
import torch

from golden import noise, save

STEPS = 20
SHAPES = {"one": (1,), "seven": (7,), "matrix": (13, 9)}
SGD = {
    "plain": dict(lr=0.05),
    "momentum": dict(lr=0.05, momentum=0.9),
    "dampening": dict(lr=0.05, momentum=0.9, dampening=0.25),
    "nesterov": dict(lr=0.05, momentum=0.9, nesterov=True),
    "l2": dict(lr=0.05, momentum=0.8, weight_decay=0.1),
}
ADAMW = {
    "default": dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2),
    "no_decay": dict(lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0),
    "llm": dict(lr=3e-3, betas=(0.9, 0.95), eps=1e-6, weight_decay=0.1),
    "no_momentum": dict(lr=1e-2, betas=(0.0, 0.5), eps=1e-3, weight_decay=0.0),
    "amsgrad": dict(lr=1e-2, betas=(0.8, 0.6), eps=1e-8, weight_decay=1e-2, amsgrad=True),
}
STATES = {"momentum_buffer": "momentum", "exp_avg": "m", "exp_avg_sq": "v", "max_exp_avg_sq": "vmax"}


def gradients():
    """Sizes from 2^-12 to 2^4, one element always zero, one step all zero, one spike."""
    out = {}
    for k, (name, shape) in enumerate(SHAPES.items()):
        g = torch.from_numpy(noise(100 + k, (STEPS, *shape)))
        flat = g.view(STEPS, -1)
        flat *= 2.0 ** ((torch.arange(flat.shape[1]) * 5) % 17 - 12)
        flat[6] = 0
        flat[11] *= 64
        if flat.shape[1] > 3:
            flat[:, 3] = 0
        out[name] = g
    return out


def generate(file, cls, settings):
    tensors = {f"{n}.gradients": g for n, g in gradients().items()}
    for k, (name, shape) in enumerate(SHAPES.items()):
        start = torch.from_numpy(noise(200 + k, shape))
        tensors[f"{name}.start"] = start
        for label, hyper in settings.items():
            p = torch.nn.Parameter(start.clone())
            optimizer = cls([p], foreach=False, **hyper)
            path = []
            for g in tensors[f"{name}.gradients"]:
                p.grad = g.clone()
                optimizer.step()
                path.append(p.detach().clone())
            tensors[f"{name}.{label}.params"] = torch.stack(path)
            for key, short in STATES.items():
                if optimizer.state[p].get(key) is not None:
                    tensors[f"{name}.{label}.{short}"] = optimizer.state[p][key]
    save(file, tensors, settings=settings, torch=torch.__version__)


generate("sgd/sgd.safetensors", torch.optim.SGD, SGD)
generate("adamw/adamw.safetensors", torch.optim.AdamW, ADAMW)
