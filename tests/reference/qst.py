"""The authors' side network beside the golden model: its loss and every gradient.

    python qst.py FOLDER        # of a checkout of YouAreSpecialToMe/QST at 27cef0a

Their down-samplers without the LayerNorm behind them, their up-sampler without its bias (the paper has neither), and one output gate for all
channels, whose gradient is the sum of theirs.
"""
import copy
import math
import pathlib
import sys
from types import SimpleNamespace
from typing import List, Optional, Tuple, Union

import torch
from transformers.activations import ACT2FN

from golden import pieces, save
from side_blocks import BLOCKS, EPS, HEADS, HIDDEN, INPUT, KV, MLP, WEIGHTS, fill, gradients

folder = pathlib.Path(sys.argv[1])


class Model(torch.nn.Module):
    """What their models inherit of transformers and is used here."""

    def __init__(self, config):
        super().__init__()
        self.config = config


def same(*_, **__):
    return lambda f: f


SPACE = dict(torch=torch, nn=torch.nn, F=torch.nn.functional, math=math, copy=copy, ACT2FN=ACT2FN, List=List, Optional=Optional, Tuple=Tuple, Union=Union,
             LlamaConfig=object, LlamaModel=object, LlamaPreTrainedModel=Model, QSTGenerationMixin=type("Mixin", (), {}), LLAMA_INPUTS_DOCSTRING="", _CONFIG_FOR_DOC="",
             CausalLMOutputWithPast=object, QSTBaseModelOutputWithPast=object, LlamaForCausalLM=object,
             add_start_docstrings_to_model_forward=same, replace_return_docstrings=same)
Activations, AdapterLinear = pieces(folder / "QSTConfig.py", "Activations", "AdapterLinear", get_activation=lambda name: ACT2FN[name], **SPACE)
NAMES = ["_make_causal_mask", "_expand_mask", "LlamaRMSNorm", "LlamaRotaryEmbedding", "rotate_half", "apply_rotary_pos_emb", "LlamaMLP", "repeat_kv", "LlamaAttention",
         "LlamaDecoderLayer", "QSTLlamaModel", "QSTLlamaForCausalLM"]
found = dict(zip(NAMES, pieces(folder / "modeling_llama_qst.py", *NAMES, AdapterLinear=AdapterLinear, **SPACE)))

CONFIG = SimpleNamespace(pad_token_id=None, vocab_size=96, hidden_size=HIDDEN, intermediate_size=MLP, num_hidden_layers=BLOCKS, num_attention_heads=HEADS,
                         num_key_value_heads=KV, rms_norm_eps=EPS, max_position_embeddings=64, rope_theta=10000.0, rope_scaling=None, pretraining_tp=1,
                         hidden_act="silu", output_attentions=False, output_hidden_states=False, use_cache=False, use_return_dict=False)
CASES = {"plain": dict(reduction=2, r=4, activation="none", logit=0.5), "silu": dict(reduction=4, r=3, activation="silu", logit=-0.25)}


def backbone():
    llm = torch.nn.Module()
    llm.model, llm.hf_device_map = torch.nn.Module(), {}
    llm.model.embed_tokens = torch.nn.Embedding.from_pretrained(WEIGHTS["model.embed_tokens.weight"])
    llm.model.layers = torch.nn.ModuleList([found["LlamaDecoderLayer"](CONFIG) for _ in range(BLOCKS)])
    llm.model.norm = found["LlamaRMSNorm"](HIDDEN, EPS)
    llm.lm_head = torch.nn.Linear(HIDDEN, 96, bias=False)
    llm.load_state_dict(WEIGHTS, strict=False)
    return llm.requires_grad_(False)


def our_name(name):
    name = name.replace("model.qst_layers.", "layers.").replace("model.downsample.", "layers.").replace("model.z.", "layers.").replace("model.norm_qst", "norm")
    parts = name.split(".")
    if "adapter_A" in name or "adapter_B" in name:
        parts[2:] = ["downsample", "down" if "adapter_A" in name else "up", "weight"]
    elif parts[0] == "layers":
        parts[2:] = ["block", *parts[2:]] if len(parts) > 2 else ["gate"]
    return "base_model.model.side." + ".".join(parts)


tensors, order = {}, {}
for i, (case, c) in enumerate(CASES.items()):
    options = SimpleNamespace(r=c["reduction"], peft_hidden_size=c["r"], activation=None if c["activation"] == "none" else c["activation"], dropout=0.0,
                              add_layer_norm_after_adapter=False, add_layer_norm_before_adapter=False)
    model = found["QSTLlamaForCausalLM"](backbone(), CONFIG, options)
    own = [(our_name(n), p) for n, p in model.named_parameters() if p.requires_grad and not n.startswith(("upsample.bias", "lm_head"))]
    fill(4000 + 100 * i, own)
    model.upsample.bias.data.zero_()
    model.lm_head_z = torch.nn.Parameter(torch.full((HIDDEN,), c["logit"]))
    value = torch.nn.functional.cross_entropy(model(input_ids=INPUT["ids"])[0].double()[:, :-1].reshape(-1, 96), INPUT["labels"][:, 1:].reshape(-1))
    value.backward()
    assert all(p.grad is None for n, p in model.named_parameters() if n.startswith(("model.backbone", "model.embed", "lm_head.w")))
    tensors |= {f"{case}.{k}": v for k, v in ({"loss": value.reshape(1)} | gradients(own)).items()}
    tensors[f"{case}.grad.base_model.model.side.output_gate"] = model.lm_head_z.grad.sum().reshape(1)
    order[case] = [n for n, _ in own]
save("qst/qst.safetensors", tensors, settings=CASES, order=order)
