"""What lora.py, qlora.py and full.py share: one training step of SmolLM2 over 4 windows of 256 tokens, with torch on one side.

The check: the losses of ten steps over 4 windows of 64, in file order, from the same weights (and the same A and B of an adapter): equal to 1e-3 in
f32. In bf16 both sides round, at different places; there 3e-2 is asked for. Then steps over 4 × 256 take turns.
"""
import json
import pathlib
import queue
import subprocess
import sys
import tempfile
import threading

import harness
from tenon_side import binary, environment, model_path
from torch_side import Torch, dtype_of

CHECKED_STEPS, CHECKED_LENGTH = 10, 64
PARAMETERS = 134_515_008  # of SmolLM2-135M, each in one product with every token: the embedding is the head too
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTER = "lora:r=16,lora_alpha=16,target_modules=all-linear"


def tokenizer(path):
    sys.path.insert(0, str(harness.ROOT / "tests" / "reference"))
    import gguf_model
    return gguf_model.tokenizer(path)


class Windows:
    """The text's windows in file order, from the start again at the end, incomplete batches left out: as `tenon train --order sequential`."""

    def __init__(self, ids, batch, length):
        import torch
        whole = torch.tensor(ids[:len(ids) // length * length]).view(-1, length)
        self.batches = whole[:len(whole) // batch * batch].view(-1, batch, length)
        self.at = 0

    def next(self):
        self.at += 1
        return self.batches[(self.at - 1) % len(self.batches)]


class TorchTraining(Torch):
    once = True
    packages = ("torch", "transformers")

    def shape(self, model, case):
        """The model with its adapter; what trains has requires_grad."""
        return model

    def prepare(self, case):
        import numpy as np
        import torch
        sys.path.insert(0, str(harness.ROOT / "tests" / "reference"))
        import gguf_model
        torch.manual_seed(1)
        self.lr = case.lr
        path = model_path(self.args)
        ids = tokenizer(path).encode(pathlib.Path(self.args.text).read_text(encoding="utf-8"), add_special_tokens=False).ids
        self.model = self.shape(gguf_model.load(path), case).train()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        start = [p.detach().clone() for p in trained]
        self.optimizer = self.make_optimizer(trained)
        self.windows = Windows(ids, case.batch, case.checked_length)
        losses = [self.step() for _ in range(CHECKED_STEPS)]
        with torch.no_grad():  # the timed steps start where the checked ones did
            for p, s in zip(trained, start):
                p.copy_(s)
        del start
        self.optimizer = self.make_optimizer(trained)
        self.windows = Windows(ids, case.batch, case.length)
        return {"losses": np.array(losses)}

    def make_optimizer(self, trained):
        import torch
        return torch.optim.AdamW(trained, lr=self.lr, weight_decay=0.01, fused=True)

    def step(self):
        ids = self.windows.next()
        loss = self.model(input_ids=ids, labels=ids).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def run(self):
        self.step()


class Lora(TorchTraining):
    packages = ("torch", "transformers", "peft")

    def quantize(self, model, case):
        return model

    def shape(self, model, case):
        from peft import LoraConfig, get_peft_model
        model = self.quantize(model.to(dtype_of(case.dtype)), case)
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=16, target_modules=TARGETS))
        model.save_pretrained(self.folder / "adapter")  # Tenon starts from the same A and B
        return model


class TenonTraining(harness.Side):
    """Trains by `tenon train` for the check and by the binding's Trainer, step by step, for the time."""

    once = True

    def versions(self):
        import os
        os.environ.update(environment(self.args))
        sys.path.insert(0, str(harness.ROOT / "bindings" / "python"))
        import tenon
        return {"tenon": getattr(tenon, "__version__", "0")}

    def recipe(self, case, output, length, steps):
        flags = {"model": model_path(self.args), "data": self.args.text, "output": output, "optimizer": "adamw:weight_decay=0.01,eps=1e-8",
                 "dtype": case.dtype, "seq-len": length, "batch-size": case.batch, "steps": steps, "lr": case.lr, "schedule": "constant", "warmup": 0,
                 "clip": 0, "order": "sequential", "seed": 1, **case.flags}
        if (self.folder / "adapter").exists():
            flags |= {"adapter": ADAPTER, "adapter-from": str(self.folder / "adapter")}
        return {key: value if value is True else str(value) for key, value in flags.items()}

    def prepare(self, case):
        import numpy as np
        output = self.folder / "checked"
        command = [binary(self.args), "train"]
        for key, value in self.recipe(case, str(output), case.checked_length, CHECKED_STEPS).items():
            command += [f"--{key}"] if value is True else [f"--{key}", value]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(self.args))
        if done.returncode:
            raise RuntimeError("tenon train: " + (done.stderr.strip().splitlines() or ["no message"])[-1])
        losses = [json.loads(line)["loss"] for line in (output / "metrics.jsonl").read_text().splitlines()]
        self.start_steps(case)
        return {"losses": np.array(losses)}

    def start_steps(self, case):
        import tenon
        self.go, self.done = queue.Queue(), queue.Queue()

        def on_step(step):
            self.done.put(step.loss)
            self.go.get()

        def train():
            try:
                with tenon.Trainer(self.recipe(case, tempfile.mkdtemp(dir=self.folder), case.length, 100000)) as trainer:
                    trainer.run(on_step=on_step)
                raise RuntimeError("the run ended")
            except BaseException as e:
                self.done.put(e)

        threading.Thread(target=train, daemon=True).start()
        self.wait()  # the model is loaded and one step done

    def wait(self):
        told = self.done.get()
        if isinstance(told, BaseException):
            raise told

    def run(self):
        self.go.put(None)
        self.wait()


def same_losses(tolerance):
    def compare(ours, theirs):
        import numpy as np
        a, b = ours["losses"], theirs["losses"]
        if len(a) != len(b) or len(a) == 0:
            raise harness.Mismatch(f"{len(a)} losses beside {len(b)}")
        worst = float(np.max(np.abs(a - b) / b))
        if not worst <= tolerance:
            raise harness.Mismatch(f"the losses of {len(a)} steps differ by up to {worst:.2g} relative, more than {tolerance:g} ({a[0]:.4f} and {b[0]:.4f} at first, "
                                   f"{a[-1]:.4f} and {b[-1]:.4f} at last)")
        return f"losses of {len(a)} steps equal to {worst:.1g}"

    return compare


def recomputing(blocks):
    """Small tiles of logits, and the first blocks' activations computed again in backward: as many as the aim for memory asks."""
    return {"loss-tile": "32MiB", "grad-checkpoint": f"flash-cut, none for blocks {blocks}-29" if blocks < 30 else "block"}


def cases(title, products, aim, aim_memory, aim_limit, flags=None, lr=1e-4, lean=None):
    """products: operations for each parameter and token: 2 forward, 2 for activations' gradients, 2 for weights' where they train. lean: per type, the flags
    of one more row, which the aim for memory asks for: the plain one is without any technique for it, as the peers are, and held to the limit, which counts
    nothing that is computed again."""

    def make(args):
        batch, length, checked = (1, 32, 16) if args.quick else (4, 256, CHECKED_LENGTH)
        tokens = batch * length
        for dtype, tolerance in (("f32", 1e-3), ("bf16", 0.1 if args.quick else 3e-2)):  # few tokens let rounding show
            for name, more in ((dtype, {}), (f"lean, {dtype}", (lean or {}).get(dtype))):
                if more is not None:
                    yield harness.Case(f"{title}, {name}", same_losses(tolerance), work=tokens, unit="tokens/s", flops=products * PARAMETERS * tokens,
                                       flops_type=dtype, aim=aim, aim_memory=aim_memory if more else None,
                                       aim_limit=None if more else aim_limit, repeat=7, dtype=dtype, batch=batch, length=length,
                                       checked_length=checked, lr=lr, flags={**(flags or {}), **more})

    return make


def fastest(title, aim):
    """One more row: each side in the type in which it is fastest."""

    def after(rows, args):
        ours = [r["tenon"] for r in rows if "seconds" in r["tenon"]]
        theirs = [p for r in rows for p in r["peers"] if "ratio" in p]
        if not ours or not theirs:
            return
        mine, peer = min(ours, key=lambda f: f["seconds"]), min(theirs, key=lambda f: f["seconds"])
        type_of = {id(f): r["case"].rpartition(", ")[2] for r in rows for f in [r["tenon"], *r["peers"]]}
        row = {"case": f"{title}, each in its fastest type", "unit": "tokens/s", "aim": aim, "aim_memory": None, "aim_seconds": None, "aim_limit": None, "tenon": mine,
               "peers": [{**peer, "name": f"{peer['name']} ({type_of[id(peer)]}; tenon {type_of[id(mine)]})", "ratio": peer["seconds"] / mine["seconds"],
                          "memory_ratio": mine["peak_bytes"] / peer["peak_bytes"]}]}
        share = [r.get("share_of_limit") for r in rows if r["tenon"] is mine]
        if share and share[0]:
            row["share_of_limit"] = share[0]
        harness.emit(row, args)

    return after
