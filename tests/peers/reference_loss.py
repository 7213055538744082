"""The loss of a text in transformers, as `tenon eval` counts it: one document, tokenized whole without special tokens, cut into windows without overlap, the last one
kept when it has two tokens; a window predicts its tokens from the second on. f32."""
import pathlib
import sys

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "reference"))
import gguf_model  # noqa: E402


def load_model(path):
    if path.is_file():
        return gguf_model.load(path)
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def token_ids(folders, text):
    for folder in folders:
        if folder and folder.is_file():
            return gguf_model.tokenizer(folder).encode(text, add_special_tokens=False).ids
        if folder and (folder / "tokenizer.json").exists():
            return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    raise SystemExit("no tokenizer.json in the folder or its base")


def evaluate(model, ids, length):
    """(mean loss in nats, predicted tokens)"""
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(ids), length):
            window = torch.tensor([ids[start:start + length]])
            if window.shape[1] < 2:
                break
            logits = model(window).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum").double())
            count += window.shape[1] - 1
    return total / count, count
