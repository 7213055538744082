"""peft LoRA: one linear layer, the tiny Llama with rank and alpha patterns, several active adapters, merging, and an adapter on disk."""
import json
import pathlib
import shutil
import tempfile

import peft
import torch
from peft import LoraConfig, PeftModel, get_peft_model
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


def fill(model, seed, scale=0.25):
    """Values for every LoRA factor of the active adapters, in the order of named_parameters."""
    names = [n for n, _ in model.named_parameters() if "lora_" in n]
    for k, (name, p) in enumerate((n, p) for n, p in model.named_parameters() if "lora_" in n):
        p.data.copy_(torch.from_numpy(noise(seed + k, tuple(p.shape), scale)))
    return names


class OneLinear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(7, 5)
        self.layer.weight.data = torch.from_numpy(noise(1100, (5, 7)))
        self.layer.bias.data = torch.from_numpy(noise(1101, (5,)))

    def forward(self, x):
        return self.layer(x)


def linear_vectors():
    x, dy = torch.from_numpy(noise(1102, (3, 7))), torch.from_numpy(noise(1103, (3, 5)))
    base = OneLinear()
    tensors = {"weight": base.layer.weight, "bias": base.layer.bias, "x": x, "dy": dy, "base_y": base(x)}
    for label, hyper in LINEAR.items():
        model = get_peft_model(OneLinear(), LoraConfig(target_modules=["layer"], lora_dropout=0.0, **hyper))
        fill(model, 1110)
        leaf = x.clone().requires_grad_()
        y = model(leaf)
        y.backward(dy)
        for name, p in model.named_parameters():
            for factor in ("A", "B"):
                if f"lora_{factor}" in name:
                    tensors[f"{label}.{factor}"], tensors[f"{label}.d{factor}"] = p, p.grad
        tensors |= {f"{label}.y": y, f"{label}.dx": leaf.grad}
        tensors[f"{label}.merged"] = model.merge_and_unload().layer.weight
    model = get_peft_model(OneLinear(), LoraConfig(target_modules=["layer"], **LINEAR["plain"]), adapter_name="first")
    model.add_adapter("second", LoraConfig(target_modules=["layer"], **LINEAR["rslora"] | dict(r=2)))
    fill(model, 1130)
    model.base_model.set_adapter(["first", "second"])
    for name, p in model.named_parameters():
        if "lora_" in name:
            tensors["two." + name.split("lora_")[1].replace(".weight", "").replace("A.", "A_").replace("B.", "B_")] = p
    tensors["two.y"] = model(x)
    save("lora/linear.safetensors", tensors, settings=LINEAR | {"two": ["plain", "rslora with r=2"]}, peft=peft.__version__)


def tiny_llama():
    return AutoModelForCausalLM.from_pretrained(LLAMA, dtype=torch.float32, attn_implementation="eager")


def model_vectors():
    """An adapter folder with patterns on the tiny Llama: logits, loss, gradients, one merged weight."""
    batch = load_file(DATA / "models" / "input.safetensors")
    ids, labels = batch["ids"].long(), batch["labels"].long()
    config = LoraConfig(
        task_type="CAUSAL_LM", r=3, lora_alpha=6, lora_dropout=0.0, use_rslora=False,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], exclude_modules=["layers.0.mlp.up_proj"],
        rank_pattern={"layers.1.self_attn.q_proj": 5, "down_proj": 2}, alpha_pattern={"v_proj": 12, "layers.0.mlp.down_proj": 1})
    model = get_peft_model(tiny_llama(), config)
    fill(model, 1200)
    folder = DATA / "lora" / "adapter"
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        settings = json.loads((pathlib.Path(scratch) / "adapter_config.json").read_text())
        settings |= dict(base_model_name_or_path="llama", target_modules=sorted(settings["target_modules"]))
        (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n")
        save_file(load_file(pathlib.Path(scratch) / "adapter_model.safetensors"), folder / "adapter_model.safetensors", {"format": "pt"})
        (folder / "adapter_model.safetensors").chmod(0o644)
    loaded = PeftModel.from_pretrained(tiny_llama(), folder, is_trainable=True)
    out = loaded(input_ids=ids, labels=labels)
    out.loss.backward()
    tensors = {"logits": out.logits[:, -4:], "loss": out.loss.reshape(1)}
    for name, p in loaded.named_parameters():
        if p.requires_grad:
            tensors["grad." + name.replace(".default", "")] = p.grad
    merged = loaded.merge_and_unload().state_dict()
    for name in ("model.layers.1.self_attn.q_proj.weight", "model.layers.0.self_attn.v_proj.weight"):
        tensors["merged." + name] = merged[name]
    save("lora/expected.safetensors", tensors, peft=peft.__version__)


linear_vectors()
model_vectors()
