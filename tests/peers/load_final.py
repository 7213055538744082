"""Loads what tenon wrote (`final/` of a full run or of an adapter run) in transformers or peft and compares the loss on a text.

    load_final.py FINAL --data TEXT --seq-len T [--base MODEL] [--loss TENONS_LOSS] [--tolerance 2e-4]

The text is one document: tokenized whole without special tokens, cut into windows of T without overlap, the last one kept when it has two
tokens; a window predicts its tokens from the second on. f32. --base is a Hugging Face folder or a GGUF file and is needed for an adapter.
Exit 1 when the losses differ by more than the tolerance.
"""
import argparse
import json
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


parser = argparse.ArgumentParser()
parser.add_argument("final", type=pathlib.Path)
parser.add_argument("--base", type=pathlib.Path)
parser.add_argument("--data", type=pathlib.Path, required=True)
parser.add_argument("--seq-len", type=int, required=True)
parser.add_argument("--loss", type=float)
parser.add_argument("--tolerance", type=float, default=2e-4)
args = parser.parse_args()

adapter = (args.final / "adapter_config.json").exists()
if adapter:
    if not args.base:
        parser.error("an adapter folder needs --base")
    from peft import PeftModel
    model = PeftModel.from_pretrained(load_model(args.base), args.final)
else:
    model = load_model(args.final)
ids = token_ids([args.final, args.base], args.data.read_text(encoding="utf-8"))
loss, tokens = evaluate(model.eval(), ids, args.seq_len)
difference = abs(args.loss - loss) / loss if args.loss is not None else None
print(json.dumps(dict(loss=loss, tokens=tokens, adapter=adapter, tenon=args.loss, relative_difference=difference)))
if difference is not None and difference > args.tolerance:
    sys.exit(f"the losses differ by {difference:.3g} relative, more than {args.tolerance:g}")
