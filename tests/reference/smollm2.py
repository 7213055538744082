"""SmolLM2-135M-Instruct, a Q4_1 GGUF file, dequantized with the gguf package and run by transformers' Llama in f32.

    smollm2.py MODEL.gguf

Only ids and numbers are kept.
"""
import argparse
import json

import numpy as np
import torch
import transformers

from gguf_model import load, tokenizer
from golden import DATA

PROMPT = "The capital of France is"
TEXT = ("A tenon is the tongue of wood that fits a mortise. Cut once to a standard, it joins any frame that has the slot. "
        "Good joints need no glue: the shoulders carry the load, the cheeks keep the line, and a peg holds the whole together.")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("gguf")
    path = parser.parse_args().gguf
    model, words = load(path), tokenizer(path)
    prompt, text = (words.encode(s, add_special_tokens=False).ids for s in (PROMPT, TEXT))
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
    print(f"{target.name}: loss {loss:.7f}, next {words.decode(top.indices[:1].tolist())!r}, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
