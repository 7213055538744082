"""The authors' Adam-mini 1.1.1, 8 steps over one parameter of each kind: 4 heads of 8 over 2 key heads, hidden size 32."""
import torch
from adam_mini import Adam_mini

from golden import noise, save

STEPS = 8
SETTINGS = dict(lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
SHAPES = {
    "embed_tokens": (40, 32), "q_proj": (32, 32), "k_proj": (16, 32), "v_proj": (16, 32), "o_proj": (32, 32),
    "mlp.up_proj": (48, 32), "mlp.down_proj": (32, 48), "lm_head": (40, 32), "norm": (32,), "q_proj.bias": (32,),
}

named = {}
for i, (name, shape) in enumerate(SHAPES.items()):
    named[name] = torch.nn.Parameter(torch.from_numpy(noise(900 + i, shape)).clone())
optimizer = Adam_mini(named.items(), dim=32, n_heads=4, n_kv_heads=2, verbose=False, **SETTINGS)
for step in range(1, STEPS + 1):
    for i, (name, shape) in enumerate(SHAPES.items()):
        named[name].grad = torch.from_numpy(noise(920 + 10 * i + step, shape)).clone()
    optimizer.step()
save("adam-mini/adam-mini.safetensors", named, settings=SETTINGS, order=list(SHAPES))
