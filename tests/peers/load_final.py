"""Loads what tenon wrote (`final/` of a full run or of an adapter run) in transformers or peft and compares the loss on a text.

    load_final.py FINAL --data TEXT --seq-len T [--base MODEL] [--loss TENONS_LOSS] [--tolerance 2e-4]

--base is a Hugging Face folder or a GGUF file and is needed for an adapter. Exit 1 when the losses differ by more than the tolerance.
"""
import argparse
import json
import pathlib
import sys

from reference_loss import evaluate, load_model, token_ids

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
