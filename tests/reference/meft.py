"""The authors' reversible encoder, its way back by inversion, and its adapters over blocks of the golden model: loss and every gradient.

    python meft.py FOLDER        # of a checkout of BaohaoLiao/mefts at 4bea22b

Their F and G are BERT's layers, whose MLP reads what a norm wrote. Llama's norm stands before the MLP, so the adapter beside the MLP reads
through a norm here too (as their Llama does: BaohaoLiao/RevLLaMA at 9c1de38), by the option that their adapter has for one.
"""
import pathlib
import sys
from types import SimpleNamespace
from typing import Optional, Tuple, Union

import torch
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from golden import pieces, save
from side_blocks import BLOCKS, EPS, HIDDEN, WEIGHTS, Block, embedded, fill, gradients, loss, norm

CASES = {"first": dict(variant=1, f_arch="layer", x1=0.1, x2=1.0), "second": dict(variant=2, f_arch="adapter", x1=1.0, x2=0.1), "third": dict(variant=3, f_arch="attn", x1=0.1, x2=0.1),
         "other": dict(variant=1, f_arch="layer", x1=0.5, x2=0.75)}
folder = pathlib.Path(sys.argv[1]) / "models"
Adapter, = pieces(folder / "modules.py", "Adapter", torch=torch, nn=torch.nn, ACT2FN=ACT2FN)


class Base(torch.nn.Module):
    """What their layer inherits of BERT's: the MLP without its output, and no decoder."""

    is_decoder, chunk_size_feed_forward, seq_len_dim = False, 0, 1

    def __init__(self, config):
        super().__init__()
        config.block, config.made = Block(index=config.made), config.made + 1
        self.block = config.block
        self.intermediate = self.block.feed
        self.attention = Attention(config)


class Attention(torch.nn.Module):
    """Of Llama in the form of BERT's: with f_arch "attn" an adapter on what the attention adds, as in their RevBertSelfOutput."""

    def __init__(self, config):
        super().__init__()
        self.block = config.block
        self.attn_adapter = Adapter(config) if config.f_arch == "attn" else None

    def forward(self, x, *_, **__):
        a = self.block.attend(x)
        if self.attn_adapter is not None:
            a = a + self.attn_adapter(a)
        return (x + a,)


class Output(torch.nn.Module):
    """The end of their layer: the MLP, what the adapter changes in it, and the residual."""

    def __init__(self, config):
        super().__init__()

    def forward(self, mlp, x, adapter_change=None):
        return x + mlp + adapter_change


_, _, encoder = pieces(folder / "modeling_revbert.py", "RevBertLayer", "RevBackProp", "RevBertEncoder", torch=torch, nn=torch.nn, sys=sys, Function=torch.autograd.Function,
                                  Optional=Optional, Tuple=Tuple, Union=Union, BertLayer=Base, RevBertOutput=Output, RevBertAttention=Attention, Adapter=Adapter,
                                  BaseModelOutputWithPastAndCrossAttentions=SimpleNamespace,
                                  apply_chunking_to_forward=lambda f, size, axis, x: f(x))


def our_name(name):
    _, index, *rest = name.split(".")
    part = {"ffn_adapter": "mlp", "attn_adapter": "attention", "rev_adapter": "adapter"}[next(r for r in rest if r.endswith("_adapter"))]
    tail = {"dense1": "down", "dense2": "up", "LayerNorm": "norm"}
    return f"base_model.model.meft.{index}.{part}.{tail[rest[-2]]}.{rest[-1]}"


tensors, order = {}, {}
for i, (case, c) in enumerate(CASES.items()):
    config = SimpleNamespace(hidden_size=HIDDEN, adapter_bottleneck_dim=4, hidden_dropout_prob=0.0, hidden_act="gelu_new", layer_norm_eps=EPS, layernorm_in_adapter=False,
                             f_arch=c["f_arch"], x1_factor=c["x1"], x2_factor=c["x2"], num_hidden_layers=BLOCKS, num_rev_layers=BLOCKS, made=0)
    model = encoder(config)
    for layer in model.layer:
        layer.ffn_adapter.LayerNorm = LlamaRMSNorm(HIDDEN, eps=EPS)
    model.train()
    own = [(our_name(n), p) for n, p in model.named_parameters() if "_adapter" in n]
    fill(4600 + 100 * i, own)
    value = loss(norm(model(embedded().requires_grad_()).last_hidden_state, WEIGHTS["model.norm.weight"]))
    value.backward()
    tensors |= {f"{case}.{k}": v for k, v in ({"loss": value.reshape(1)} | gradients(own)).items()}
    order[case] = [n for n, _ in own]
save("meft/meft.safetensors", tensors, settings=CASES, order=order)
