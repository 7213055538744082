"""peft LoRA with the embedding and the head among its targets, on a tiny model that unties them and on one that ties them."""
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


def tiny(name):
    return AutoModelForCausalLM.from_pretrained(DATA / "models" / name, dtype=torch.float32, attn_implementation="eager")


def write_folder(model, base, folder):
    """What save_pretrained writes, with a base that is no path of this machine."""
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        settings = json.loads((pathlib.Path(scratch) / "adapter_config.json").read_text())
        settings |= dict(base_model_name_or_path=base, target_modules=sorted(settings["target_modules"]))
        (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n")
        save_file(load_file(pathlib.Path(scratch) / "adapter_model.safetensors"), folder / "adapter_model.safetensors", {"format": "pt"})
        (folder / "adapter_model.safetensors").chmod(0o644)


batch = load_file(DATA / "models" / "input.safetensors")
ids, labels = batch["ids"].long(), batch["labels"].long()
for base, targets in {"llama": ["embed_tokens", "lm_head", "q_proj"], "qwen2": ["embed_tokens", "v_proj"]}.items():
    config = LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=6, lora_dropout=0.0, target_modules=targets, rank_pattern={"embed_tokens": 5})
    model = get_peft_model(tiny(base), config)
    for k, p in enumerate(p for n, p in model.named_parameters() if "lora_" in n):
        p.data.copy_(torch.from_numpy(noise(1400 + k, tuple(p.shape), 0.25)))
    folder = DATA / "lora" / ("embedding-" + base)
    write_folder(model, base, folder)
    loaded = PeftModel.from_pretrained(tiny(base), folder, is_trainable=True)
    out = loaded(input_ids=ids, labels=labels)
    out.loss.backward()
    tensors = {"loss": out.loss.reshape(1)}
    for name, p in loaded.named_parameters():
        if p.requires_grad:
            tensors["grad." + name.replace(".default", "")] = p.grad
    if not loaded.config.tie_word_embeddings:  # where both are one weight, peft's merge changes the head too
        merged = loaded.merge_and_unload().state_dict()
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors["merged." + name] = merged[name]
    save(f"lora/embedding-{base}.safetensors", tensors, peft=peft.__version__)
