"""A GGUF file of a Llama model as transformers' Llama in f32: dequantized with the gguf package, renamed, q and k rows restored."""
import gguf
import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

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
    """A byte-level BPE tokenizer from the file's tokens and merges. transformers' own reading of a GGUF file forgets the single digits."""
    fields = gguf.GGUFReader(path).fields
    value = {k.removeprefix("tokenizer.ggml."): f.contents() for k, f in fields.items() if k.startswith("tokenizer.ggml.")}
    if (value["model"], value["pre"]) != ("gpt2", "smollm"):
        raise ValueError(f"{path}: the tokenizer {value['model']}/{value['pre']} is not known here")
    merges = [tuple(m.split(" ")) for m in value["merges"]]
    out = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(value["tokens"])}, merges=merges))
    out.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    out.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(value["tokens"], value["token_type"]) if kind in (3, 4)]  # control, user-defined
    out.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return out
