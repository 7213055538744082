"""One training step of LoRA and QLoRA with torch, peft and bitsandbytes on the CPU: SmolLM2, 4 windows of 256, r = 16 on all linears, AdamW.

Every variant lives in a process of its own (its peak resident memory is its own); the steps take turns.
"""
import ctypes
import gc
import os
import pathlib
import subprocess
import sys

import peer

VARIANTS = ("lora_f32", "lora_bf16", "qlora_f32", "qlora_bf16")


def status_bytes(key):
    return int(pathlib.Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) * 1024


def quantize(model, dtype):
    import bitsandbytes as bnb
    import torch
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.Linear) and name != "lm_head":
                layer = bnb.nn.Linear4bit(child.in_features, child.out_features, bias=False, compute_dtype=dtype, quant_type="nf4",
                                          compress_statistics=True)
                layer.weight = bnb.nn.Params4bit(child.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True)
                layer.weight = layer.weight._quantize("cpu")
                setattr(parent, name, layer)


def worker(variant, path, batch, length, threads):
    """Answers each line on standard input with the loss of one step; at the end of input with its peak memory."""
    import torch
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "reference"))
    from gguf_model import load
    from peft import LoraConfig, get_peft_model
    imported = status_bytes("VmRSS")
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    dtype = torch.float32 if variant.endswith("f32") else torch.bfloat16
    model = load(path).to(dtype).train()
    if variant.startswith("qlora"):
        quantize(model, dtype)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=16, target_modules=targets))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    ids = torch.randint(0, 40000, (batch, length))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here: loading is not the step
    print("ready", imported, flush=True)
    for _ in sys.stdin:
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(loss.item(), flush=True)
    print(status_bytes("VmHWM"), flush=True)


def main():
    p = peer.parser(__doc__)
    p.add_argument("--gguf", required=True)
    p.add_argument("--variants", default=",".join(VARIANTS))
    p.add_argument("--worker", help="internal: be the process of one variant")
    args = p.parse_args()
    batch, length = (1, 32) if args.quick else (4, 256)
    if args.worker:
        return worker(args.worker, args.gguf, batch, length, args.threads)
    environment = dict(os.environ, OMP_WAIT_POLICY="passive")
    command = [sys.executable, os.path.abspath(__file__), "--gguf", args.gguf, "--threads", str(args.threads)] + ["--quick"] * args.quick
    workers = {}
    for variant in args.variants.split(","):
        workers[variant] = subprocess.Popen([*command, "--worker", variant], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                            env=environment)
        word, _, imported = workers[variant].stdout.readline().partition(" ")
        if word != "ready":
            raise SystemExit(f"{variant} did not start")

    def step(variant):
        w = workers[variant]
        w.stdin.write("step\n")
        w.stdin.flush()
        float(w.stdout.readline())

    actions = {variant: (lambda v=variant: step(v)) for variant in workers}
    seconds = peer.interleaved(actions, 1 if args.quick else args.repeat, warmup=1)
    figures = {f"{v}_tokens_per_second": batch * length / s for v, s in seconds.items()}
    for variant, w in workers.items():
        w.stdin.close()
        figures[f"{variant}_peak_bytes"] = int(w.stdout.readline())
        w.wait()
    import importlib.metadata
    versions = {n: importlib.metadata.version(n) for n in ("torch", "transformers", "peft", "bitsandbytes")}
    peer.report("lora-step", figures, versions, args, ("--model", args.gguf), batch=batch, length=length, rank=16, python_imports_bytes=int(imported))


if __name__ == "__main__":
    main()
