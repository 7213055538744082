"""Tiny random models of the Llama family run through transformers: configs, weights, and what the forward and backward pass must give."""
import json

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from golden import DATA, noise, save

VOCAB, HIDDEN, MLP = 96, 32, 48
SHARED = dict(vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=MLP, num_hidden_layers=2, num_attention_heads=4, hidden_act="silu",
              max_position_embeddings=64, bos_token_id=1, eos_token_id=2)
LLAMA3 = dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)

# Folder -> configs by file name. All configs of a folder share model.safetensors. "older" and "newer" are the two spellings of config.json.
MODELS = {
    "llama": dict(
        architecture="LlamaForCausalLM", dtype="float32",
        base=dict(model_type="llama", num_key_value_heads=2, rms_norm_eps=1e-6, tie_word_embeddings=False, attention_bias=False),
        configs={
            "config": dict(rope_theta=10000.0, torch_dtype="float32"),
            "config-newer": dict(rope_parameters=dict(rope_type="default", rope_theta=500.0), dtype="float32"),
            "config-linear": dict(rope_theta=10000.0, rope_scaling=dict(type="linear", factor=2.5), torch_dtype="float32"),
            "config-dynamic": dict(rope_theta=10000.0, rope_scaling=dict(rope_type="dynamic", factor=2.0), max_position_embeddings=8,
                                   torch_dtype="float32"),
            "config-llama3": dict(rope_theta=10000.0, rope_scaling=LLAMA3, torch_dtype="float32"),
            "config-llama3-newer": dict(rope_parameters=dict(LLAMA3, rope_theta=10000.0), dtype="float32"),
        }),
    "llama2": dict(
        architecture="LlamaForCausalLM", dtype="bfloat16",
        base=dict(model_type="llama", num_key_value_heads=4, rms_norm_eps=1e-5, tie_word_embeddings=False, pretraining_tp=1),
        configs={"config": dict(rope_scaling=None, torch_dtype="bfloat16")}),
    "mistral": dict(
        architecture="MistralForCausalLM", dtype="bfloat16",
        base=dict(model_type="mistral", num_key_value_heads=2, rms_norm_eps=1e-5, tie_word_embeddings=False, sliding_window=5),
        configs={"config": dict(rope_theta=10000.0, torch_dtype="bfloat16")}),
    "qwen2": dict(
        architecture="Qwen2ForCausalLM", dtype="bfloat16",
        base=dict(model_type="qwen2", num_key_value_heads=2, rms_norm_eps=1e-6, tie_word_embeddings=True, use_sliding_window=False,
                  sliding_window=32, max_window_layers=28),
        configs={"config": dict(rope_theta=1000000.0, torch_dtype="bfloat16")}),
    "qwen3": dict(
        architecture="Qwen3ForCausalLM", dtype="bfloat16",
        base=dict(model_type="qwen3", num_key_value_heads=2, head_dim=12, rms_norm_eps=1e-6, tie_word_embeddings=True, attention_bias=False,
                  use_sliding_window=False, sliding_window=None, max_window_layers=28),
        configs={"config": dict(rope_parameters=dict(rope_type="default", rope_theta=1000000.0), dtype="bfloat16")}),
}
IDS = ((torch.from_numpy(noise(1000, (2, 14))) + 2) * 24).long().clamp(0, VOCAB - 1)
LABELS = IDS.clone()
LABELS[1, :5] = -100  # ignored


def weights(model, seed, dtype):
    for k, (name, p) in enumerate(model.named_parameters()):
        n = torch.from_numpy(noise(seed + k, tuple(p.shape)))
        if "norm" in name:
            n = 1 + n / 4
        elif p.ndim == 2:
            n = n * (0.5 if "embed" in name else 1.5 / p.shape[1] ** 0.5)
        p.data.copy_(n.to(dtype).float())


def fingerprint(k, g):
    """Four numbers of a gradient in f64: sum, 2-norm, dot product with noise(2000 + k), largest magnitude."""
    g = g.double().flatten()
    r = torch.from_numpy(noise(2000 + k, (g.numel(),))).double()
    return torch.stack([g.sum(), g.norm(), g @ r, g.abs().max()])


def run(folder, name, config, full):
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    out = model(input_ids=IDS, labels=LABELS)
    out.loss.backward()
    tensors = {"logits": out.logits if full else out.logits[:, -4:], "loss": out.loss.reshape(1)}
    tensors["last_logits_alone"] = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")(
        input_ids=IDS[1:, :6]).logits[:, -1]
    for k, (parameter, p) in enumerate(model.named_parameters()):
        tensors[f"fingerprint.{parameter}"] = fingerprint(k, p.grad)
        if full:
            tensors[f"grad.{parameter}"] = p.grad
    order = [n for n, _ in model.named_parameters()]
    save(f"models/{folder.name}/expected-{name}.safetensors", tensors, order=order, transformers=transformers.__version__)


save("models/input.safetensors", {"ids": IDS, "labels": LABELS})
for index, (name, spec) in enumerate(MODELS.items()):
    folder = DATA / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    dtype = getattr(torch, spec["dtype"])
    full_config = {}
    for label, extra in spec["configs"].items():
        config = dict(SHARED, architectures=[spec["architecture"]], **spec["base"]) | extra
        full_config[label] = config
        if not (folder / "model.safetensors").exists() or label == "config":
            (folder / "config.json").write_text(json.dumps(config))
            model = AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder))
            model.float()
            weights(model, 3000 + 100 * index, dtype)
            state = {k: v.to(dtype).contiguous() for k, v in model.named_parameters()}
            save_file(dict(sorted(state.items())), folder / "model.safetensors", {"format": "pt"})
            (folder / "model.safetensors").chmod(0o644)
        run(folder, label, config, full=(name, label) == ("llama", "config"))
    for label, config in full_config.items():
        (folder / f"{label}.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
