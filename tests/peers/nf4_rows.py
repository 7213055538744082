"""NF4 where a weight's rows are no whole number of blocks: the loss of a model whose linears are decoded by bitsandbytes and by the format's definition, beside Tenon's.

    nf4_rows.py --tenon build/bin/tenon --model FOLDER --data TEXT --seq-len T

Blocks are 64 elements of the flattened weight. bitsandbytes' kernel for CPUs with AVX-512 looks for the scale of an element at row * (columns // 64) + column // 64,
which is another block's where 64 does not divide the columns; its kernels for other CPUs and for GPUs follow the flattened weight. The codes and scales that it
made are the same in both columns here: only their decoding differs. Exit 1 where Tenon is not within 2e-5 of the definition.
"""
import argparse
import json
import pathlib
import subprocess
import sys

import bitsandbytes.functional as F
import torch

from reference_loss import evaluate, load_model, token_ids

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def by_bitsandbytes(packed, state):
    return F.dequantize_4bit(packed, state)


def by_definition(packed, state):
    scales = state.absmax
    if state.nested:
        scales = F.dequantize_blockwise(state.absmax, state.state2) + state.offset
    codes = packed.reshape(-1)
    numbers = state.code[torch.stack((codes >> 4, codes & 15), 1).reshape(-1).long()]
    return (numbers * scales.float().repeat_interleave(state.blocksize)[: numbers.numel()]).reshape(state.shape)


def decoded_model(path, decode, double):
    """The model with decoded linears, and how many of their elements differ from the definition."""
    model, wrong, count = load_model(path).eval(), 0, 0
    for name, module in model.named_modules():
        if name.rpartition(".")[2] not in LINEARS or not isinstance(module, torch.nn.Linear):
            continue
        packed, state = F.quantize_4bit(module.weight.data, blocksize=64, quant_type="nf4", compress_statistics=double)
        module.weight.data = decode(packed, state).float()
        wrong += int((module.weight.data - by_definition(packed, state)).abs().gt(1e-6).sum())
        count += module.weight.numel()
    return model, wrong / count


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--tenon", required=True)
parser.add_argument("--model", type=pathlib.Path, required=True)
parser.add_argument("--data", type=pathlib.Path, required=True)
parser.add_argument("--seq-len", type=int, required=True)
args = parser.parse_args()

ids = token_ids([args.model], args.data.read_text(encoding="utf-8"))
worst = 0
for double in (False, True):
    spec = f"nf4:double_quant={'true' if double else 'false'}"
    answer = subprocess.run([args.tenon, "eval", "--model", args.model, "--data", args.data, "--seq-len", str(args.seq_len), "--dtype", "f32", "--quantizer", spec, "--json"],
                            check=True, capture_output=True, text=True).stdout
    row = {"quantizer": spec, "tenon": json.loads(answer)["loss"]}
    for key, decode in (("definition", by_definition), ("bitsandbytes", by_bitsandbytes)):
        model, wrong = decoded_model(args.model, decode, double)
        row[key] = evaluate(model, ids, args.seq_len)[0]
        row[f"{key}_elements_off"] = wrong
    print(json.dumps(row))
    worst = max(worst, abs(row["tenon"] - row["definition"]) / row["definition"])
if worst > 2e-5:
    sys.exit(f"Tenon's loss is {worst:.2g} relative away from that of the definition")
