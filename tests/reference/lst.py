"""The authors' ladder over blocks of the golden model: its loss and every gradient. Their stack is T5's; the blocks in it here are Llama's.

    python lst.py FOLDER        # of a checkout of ylsung/Ladder-Side-Tuning at 1798e82
"""
import copy
import pathlib
import sys
from types import SimpleNamespace

import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from golden import pieces, save
from side_blocks import BLOCKS, EPS, HIDDEN, MLP, Block, embedded, fill, gradients, loss

CASES = {"before": dict(reduction=2, after=False, dropped=[]), "after": dict(reduction=4, after=True, dropped=[]), "dropped": dict(reduction=2, after=False, dropped=[0])}


class Model(torch.nn.Module):
    """What their stack inherits of transformers and is used here."""

    def __init__(self, config):
        super().__init__()
        self.config = config

    def init_weights(self):
        pass

    def get_extended_attention_mask(self, *_):
        return None

    def get_head_mask(self, _, n):
        return [None] * n


class Layer(torch.nn.Module):
    """A Llama block with the signature and the results of T5's."""

    backbone = 0  # how many of the golden model's blocks were made

    def __init__(self, config, **_):
        super().__init__()
        index = None
        if config.d_model == HIDDEN:
            index = Layer.backbone % BLOCKS
            Layer.backbone += 1
        self.inner = Block(config.d_model, config.d_ff, index)

    def forward(self, x, **_):
        return self.inner(x), None


def same(*_, **__):
    return lambda f: f


source = pathlib.Path(sys.argv[1]) / "seq2seq" / "third_party" / "models" / "t5" / "modeling_side_t5.py"
stack, = pieces(source, "T5Stack", torch=torch, nn=torch.nn, copy=copy, T5PreTrainedModel=Model, T5Block=Layer, T5LayerNorm=LlamaRMSNorm, add_start_docstrings=same,
                PARALLELIZE_DOCSTRING="", DEPARALLELIZE_DOCSTRING="", SideBaseModelOutputWithPastAndCrossAttentions=SimpleNamespace)


def our_name(name):
    at, _, rest = name.partition(".")
    if at == "side_first_downsample":
        return "entry." + rest
    if at == "final_side_layer_norm":
        return "norm.weight"
    index, _, rest = rest.partition(".")
    return f"layers.{index}." + {"side_downsamples": "downsample." + rest, "side_gate_params": "gate", "side_block": "block." + rest.removeprefix("inner.layer.")}[at]


tensors, order = {}, {}
for i, (case, c) in enumerate(CASES.items()):
    kept = [k for k in range(BLOCKS) if k not in c["dropped"]]
    adapter = SimpleNamespace(task_reduction_factor=c["reduction"], task_adapter_layers_encoder=None, task_adapter_layers_decoder=None)
    config = SimpleNamespace(is_decoder=False, prefix_tuning=False, num_layers=BLOCKS, d_model=HIDDEN, d_ff=MLP, d_kv=8, encoder_side_layers=kept, add_residual_after=c["after"],
                             add_bias_sampling=True, use_gate="learnable", gate_alpha=0, gate_T=0.1, layer_norm_epsilon=EPS, dropout_rate=0.0, train_task_adapters=False,
                             use_cache=False, output_attentions=False, output_hidden_states=False, use_return_dict=True)
    ladder = stack(config, adapter_config=adapter)
    upsample = torch.nn.Linear(HIDDEN // c["reduction"], HIDDEN)
    own = [("base_model.model.side." + our_name(n), p) for n, p in ladder.named_parameters()
           if n.startswith(("side_", "final_side")) and not any(n.startswith(f"side_gate_params.{k}") for k in c["dropped"])]
    own += [("base_model.model.side.upsample." + n, p) for n, p in upsample.named_parameters()]
    fill(4200 + 100 * i, own)
    for name, p in own:
        if name.endswith("gate"):
            p.data.mul_(0.125)  # a sixteenth of noise over a temperature of a tenth
    value = loss(upsample(ladder(inputs_embeds=embedded()).last_side_hidden_state))
    value.backward()
    tensors |= {f"{case}.{k}": v for k, v in ({"loss": value.reshape(1)} | gradients(own)).items()}
    order[case] = [n for n, _ in own]
save("lst/lst.safetensors", tensors, settings=CASES, order=order)
