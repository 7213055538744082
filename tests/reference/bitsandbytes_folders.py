"""Model folders that transformers writes with bitsandbytes' weights in 8 and in 4 bits, and their losses under the formats' own decoding."""
import json
import pathlib
import shutil
import tempfile

import bitsandbytes
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from golden import DATA, save

LLAMA = DATA / "models" / "llama"
FOLDERS = {
    "int8": BitsAndBytesConfig(load_in_8bit=True),
    "nf4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32),
}


def decoded(name, tensors):
    """The weight under this name by the format alone: the library's CPU product and decoding have roundings of their own."""
    w = tensors[name]
    if w.dtype == torch.int8:
        return w.float() * tensors[name.replace(".weight", ".SCB")][:, None] / 127
    state = json.loads(bytes(tensors[name + ".quant_state.bitsandbytes__nf4"].tolist()))
    nested = tensors[name + ".nested_quant_map"][tensors[name + ".absmax"].long()]
    blocks = torch.arange(nested.numel()) // state["nested_blocksize"]
    absmax = nested * tensors[name + ".nested_absmax"][blocks] + state["nested_offset"]
    codes = torch.stack([w.flatten() >> 4, w.flatten() & 15], 1).flatten().long()
    values = tensors[name + ".quant_map"][codes] * absmax[torch.arange(codes.numel()) // state["blocksize"]]
    return values.reshape(state["shape"])


batch = load_file(DATA / "models" / "input.safetensors")
ids, labels = batch["ids"].long(), batch["labels"].long()
for kind, config in FOLDERS.items():
    folder = DATA / "models" / ("llama-" + kind)
    with tempfile.TemporaryDirectory() as scratch:
        model = AutoModelForCausalLM.from_pretrained(LLAMA, dtype=torch.float32, quantization_config=config, device_map="cpu")
        model.save_pretrained(scratch)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        text = json.loads((pathlib.Path(scratch) / "config.json").read_text())
        text.pop("_name_or_path", None)
        (folder / "config.json").write_text(json.dumps(text, indent=1, sort_keys=True) + "\n")
        tensors = load_file(pathlib.Path(scratch) / "model.safetensors")
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        (folder / "model.safetensors").chmod(0o644)
    plain = AutoModelForCausalLM.from_pretrained(LLAMA, dtype=torch.float32, attn_implementation="eager")
    for name, p in plain.named_parameters():
        if name.replace(".weight", ".SCB") in tensors or name + ".absmax" in tensors:
            p.data.copy_(decoded(name, tensors))
    loss = plain(input_ids=ids, labels=labels).loss
    name = "model.layers.1.mlp.down_proj.weight"
    save(f"models/llama-{kind}/expected.safetensors", {"loss": loss.reshape(1), "decoded." + name: plain.get_parameter(name)},
         bitsandbytes=bitsandbytes.__version__)
