"""The golden model `llama` and blocks of its kind, for methods that rewire a backbone or set a network beside it. In f64."""
import torch
from safetensors.numpy import load_file
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding

from golden import DATA, noise

torch.set_default_dtype(torch.float64)
WEIGHTS = {k: torch.from_numpy(v).double() for k, v in load_file(DATA / "models" / "llama" / "model.safetensors").items()}
INPUT = {k: torch.from_numpy(v).long() for k, v in load_file(DATA / "models" / "input.safetensors").items()}
HIDDEN, MLP, HEADS, KV, BLOCKS, EPS = 32, 48, 4, 2, 2, 1e-6


def config(hidden=HIDDEN, mlp=MLP):
    c = LlamaConfig(vocab_size=96, hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=BLOCKS, num_attention_heads=HEADS, num_key_value_heads=KV,
                    head_dim=hidden // HEADS, rms_norm_eps=EPS, max_position_embeddings=64)
    c._attn_implementation = "eager"
    return c


class Block(torch.nn.Module):
    """A block of the kind, in its two halves; index: with the golden model's weights, frozen."""

    def __init__(self, hidden=HIDDEN, mlp=MLP, index=None):
        super().__init__()
        self.layer, self.rotary = LlamaDecoderLayer(config(hidden, mlp), 0), LlamaRotaryEmbedding(config(hidden, mlp))
        if index is not None:
            at = f"model.layers.{index}."
            self.layer.load_state_dict({k[len(at):]: v for k, v in WEIGHTS.items() if k.startswith(at)})
            self.requires_grad_(False)

    def attend(self, x):
        """What the attention adds to the residual."""
        t = x.shape[1]
        mask = torch.full((t, t), torch.finfo(x.dtype).min).triu(1)[None, None]
        return self.layer.self_attn(self.layer.input_layernorm(x), position_embeddings=self.rotary(x, torch.arange(t)[None]), attention_mask=mask)[0]

    def feed(self, x):
        """What the MLP adds to the residual."""
        return self.layer.mlp(self.layer.post_attention_layernorm(x))

    def forward(self, x):
        x = x + self.attend(x)
        return x + self.feed(x)


def embedded():
    return WEIGHTS["model.embed_tokens.weight"][INPUT["ids"]]


def norm(x, gain):
    n = LlamaRMSNorm(x.shape[-1], eps=EPS)
    n.weight = torch.nn.Parameter(gain, requires_grad=False)
    return n(x)


def loss(h):
    """Of the frozen head on what it reads."""
    logits = h @ WEIGHTS["lm_head.weight"].T
    return torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 96), INPUT["labels"][:, 1:].reshape(-1))


def fill(seed, parameters):
    """Gives the number k of (name, parameter) pairs noise(seed + k): a gain 1 + a quarter of it, a weight a quarter, other vectors half."""
    for k, (name, p) in enumerate(parameters):
        n = torch.from_numpy(noise(seed + k, tuple(p.shape))).double()
        p.data.copy_(1 + n / 4 if "norm" in name else n / 4 if p.ndim == 2 else n / 2)


def gradients(parameters):
    return {f"grad.{name}": p.grad for name, p in parameters}
