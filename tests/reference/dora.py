"""peft DoRA: one linear layer without and with a bias and with rank-stabilised scaling, merging, and an adapter on disk."""
import json
import pathlib
import shutil
import tempfile

import peft
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from golden import DATA, noise, save

LLAMA = DATA / "models" / "llama"
LINEAR = {
    "plain": dict(r=4, lora_alpha=8),
    "rslora": dict(r=4, lora_alpha=8, use_rslora=True),
    "rank1": dict(r=1, lora_alpha=0.5),
    "wide_rank": dict(r=12, lora_alpha=16),  # r > min(m, n)
}


class OneLinear(torch.nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.layer = torch.nn.Linear(7, 5, bias=bias)
        self.layer.weight.data = torch.from_numpy(noise(2100, (5, 7)))
        if bias:
            self.layer.bias.data = torch.from_numpy(noise(2101, (5,)))

    def forward(self, x):
        return self.layer(x)


def short(name):
    return {"lora_A": "A", "lora_B": "B", "lora_magnitude_vector": "g"}[next(k for k in name.split(".") if k.startswith("lora_"))]


def fill(model, seed):
    """Factors away from their start; the magnitude a little away from the norms that it starts from."""
    for k, (name, p) in enumerate((n, p) for n, p in model.named_parameters() if "lora_" in n):
        if short(name) == "g":
            p.data.mul_(1 + torch.from_numpy(noise(seed + k, tuple(p.shape), 0.1)))
        else:
            p.data.copy_(torch.from_numpy(noise(seed + k, tuple(p.shape), 0.25)))


def linear_vectors():
    x, dy = torch.from_numpy(noise(2102, (3, 7))), torch.from_numpy(noise(2103, (3, 5)))
    tensors = {"weight": OneLinear(False).layer.weight, "bias": OneLinear(True).layer.bias, "x": x, "dy": dy}
    for label, hyper in LINEAR.items():
        for bias in (False, True):
            at = label + (".biased" if bias else "")
            model = get_peft_model(OneLinear(bias), LoraConfig(target_modules=["layer"], lora_dropout=0.0, use_dora=True, **hyper))
            for name, p in model.named_parameters():
                if "magnitude" in name:
                    tensors[at + ".start"] = p.detach().clone()
            fill(model, 2110)
            leaf = x.clone().requires_grad_()
            y = model(leaf)
            y.backward(dy)
            for name, p in model.named_parameters():
                if "lora_" in name:
                    tensors[f"{at}.{short(name)}"], tensors[f"{at}.d{short(name)}"] = p.detach().clone(), p.grad
            tensors |= {f"{at}.y": y, f"{at}.dx": leaf.grad}
            tensors[f"{at}.merged"] = model.merge_and_unload().layer.weight
    save("dora/linear.safetensors", tensors, settings=LINEAR, peft=peft.__version__)


def model_vectors():
    """An adapter folder on the tiny Llama and the logits that it gives."""
    batch = load_file(DATA / "models" / "input.safetensors")
    ids, labels = batch["ids"].long(), batch["labels"].long()
    base = AutoModelForCausalLM.from_pretrained(LLAMA, dtype=torch.float32, attn_implementation="eager")
    config = LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=6, lora_dropout=0.0, use_dora=True, target_modules=["q_proj", "v_proj", "down_proj"],
                        rank_pattern={"layers.1.self_attn.q_proj": 5})
    model = get_peft_model(base, config)
    fill(model, 2200)
    folder = DATA / "dora" / "adapter"
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        settings = json.loads((pathlib.Path(scratch) / "adapter_config.json").read_text())
        settings |= dict(base_model_name_or_path="llama", target_modules=sorted(settings["target_modules"]))
        (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n")
        save_file(load_file(pathlib.Path(scratch) / "adapter_model.safetensors"), folder / "adapter_model.safetensors", {"format": "pt"})
        (folder / "adapter_model.safetensors").chmod(0o644)
    out = model(input_ids=ids, labels=labels)
    save("dora/expected.safetensors", {"logits": out.logits[:, -4:], "loss": out.loss.reshape(1)}, peft=peft.__version__)


linear_vectors()
model_vectors()
