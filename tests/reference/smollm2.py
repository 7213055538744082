"""SmolLM2-135M-Instruct, a Q4_1 GGUF file, dequantized with the gguf package and run by transformers' Llama in f32.

    smollm2.py MODEL.gguf

The tokenizer is built by transformers from the same file. Only ids and numbers are kept.
"""
import argparse
import json
import pathlib

import gguf
import numpy as np
import torch
import transformers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from golden import DATA

PROMPT = "The capital of France is"
TEXT = ("A tenon is the tongue of wood that fits a mortise. Cut once to a standard, it joins any frame that has the slot. "
        "Good joints need no glue: the shoulders carry the load, the cheeks keep the line, and a peg holds the whole together.")
NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
BLOCK_NAMES = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
               "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
               "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


def load(path):
    """The model in f32. q and k rows go back from neighbouring pairs to the two halves that Hugging Face rotates."""
    reader = gguf.GGUFReader(path)
    value = {k: f.contents() for k, f in reader.fields.items() if k.startswith("llama.")}
    heads, kv_heads = value["llama.attention.head_count"], value["llama.attention.head_count_kv"]
    config = LlamaConfig(
        vocab_size=value["llama.vocab_size"], hidden_size=value["llama.embedding_length"], num_hidden_layers=value["llama.block_count"],
        intermediate_size=value["llama.feed_forward_length"], num_attention_heads=heads, num_key_value_heads=kv_heads,
        rms_norm_eps=value["llama.attention.layer_norm_rms_epsilon"], max_position_embeddings=value["llama.context_length"],
        rope_parameters=dict(rope_type="default", rope_theta=value["llama.rope.freq_base"]),
        tie_word_embeddings=not any(t.name == "output.weight" for t in reader.tensors), attn_implementation="sdpa")
    state = {}
    for t in reader.tensors:
        w = gguf.quants.dequantize(t.data, t.tensor_type).reshape(tuple(int(n) for n in reversed(t.shape))).astype(np.float32)
        parts = t.name.split(".")
        if parts[0] == "blk":
            name = f"model.layers.{parts[1]}.{BLOCK_NAMES[parts[2]]}.weight"
            if parts[2] in ("attn_q", "attn_k"):
                h = heads if parts[2] == "attn_q" else kv_heads
                w = w.reshape(h, w.shape[0] // h // 2, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
        else:
            name = NAMES[parts[0]] + ".weight"
        state[name] = torch.from_numpy(np.ascontiguousarray(w))
    model = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    return model.eval()


def tokenizer(path):
    path = pathlib.Path(path)
    return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("gguf")
    path = parser.parse_args().gguf
    model, words = load(path), tokenizer(path)
    prompt, text = (words(s, add_special_tokens=False)["input_ids"] for s in (PROMPT, TEXT))
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1]
        ids = torch.tensor([text])
        loss = float(model(ids, labels=ids).loss)
    top = logits.topk(10)
    chosen = sorted({int(i) for i in np.linspace(0, len(logits) - 1, 54)} | set(top.indices.tolist()))
    out = dict(
        file="SmolLM2-135M-Instruct.Q4_1.gguf", transformers=transformers.__version__, prompt=PROMPT, prompt_ids=prompt,
        top10_ids=top.indices.tolist(), logit_ids=chosen, logits=[float(f"{float(logits[i]):.7g}") for i in chosen],
        logit_norm=float(logits.double().norm()), text=TEXT, text_ids=text, text_loss=loss)
    target = DATA / "models" / "smollm2.json"
    target.write_text(json.dumps(out) + "\n")
    print(f"{target.name}: loss {loss:.7f}, next {words.decode(top.indices[:1])!r}, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
