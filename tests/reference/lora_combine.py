"""peft's adapter arithmetic: add_weighted_adapter over a linear layer and an embedding."""
import peft
import torch
from peft import LoraConfig, get_peft_model

from golden import noise, save

SETTINGS = {"first": dict(r=3, lora_alpha=6), "second": dict(r=3, lora_alpha=4.5, use_rslora=True), "third": dict(r=2, lora_alpha=8)}
WEIGHTS = {"first": 0.75, "second": -0.5, "third": 1.5}


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = torch.nn.Embedding(11, 7)
        self.layer = torch.nn.Linear(7, 5)

    def forward(self, ids):
        return self.layer(self.emb(ids))


def factors(model, name):
    layer, emb = model.base_model.model.layer, model.base_model.model.emb
    return {"layer.A": layer.lora_A[name].weight, "layer.B": layer.lora_B[name].weight,
            "emb.A": emb.lora_embedding_A[name], "emb.B": emb.lora_embedding_B[name]}


model = None
for name, hyper in SETTINGS.items():
    config = LoraConfig(target_modules=["layer", "emb"], **hyper)
    if model is None:
        model = get_peft_model(Model(), config, adapter_name=name)
    else:
        model.add_adapter(name, config)
tensors, seed = {}, 1300
for name in SETTINGS:
    for key, p in factors(model, name).items():
        p.data.copy_(torch.from_numpy(noise(seed, tuple(p.shape), 0.5)))
        tensors[f"{name}.{key}"], seed = p, seed + 1
for method, names, options in (("linear", ["first", "second"], {}), ("cat", list(SETTINGS), {}), ("svd", list(SETTINGS), {"svd_rank": 2})):
    model.add_weighted_adapter(names, [WEIGHTS[n] for n in names], method, combination_type=method, **options)
    for key, p in factors(model, method).items():
        tensors[f"{method}.{key}"] = p
save("lora/combined.safetensors", tensors, settings=SETTINGS, weights=WEIGHTS, peft=peft.__version__)
