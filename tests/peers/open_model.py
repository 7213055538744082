"""Opening SmolLM2: a GGUF file with the gguf package, a safetensors folder with safetensors and with transformers.

A GGUF file is opened (every metadata field and the index of its tensors; Tenon makes its tokenizer besides), and read (every tensor copied, as it is
stored). A folder is opened (every tensor there by name, its bytes still in the mapped file) and read: every tensor copied into memory. All from the page
cache. The check: as many bytes of weights.
"""
import pathlib
import subprocess
import sys

import harness
from tenon_side import model_path, tenon


def folder_of(args):
    """SmolLM2 in the Hugging Face layout, bf16; made once, by transformers."""
    path = pathlib.Path(args.build) / "peers" / "smollm2-bf16"
    if not (path / "config.json").exists():
        script = ("import sys, torch; sys.path.insert(0, sys.argv[1]); import gguf_model; m = gguf_model.load(sys.argv[2]).to(torch.bfloat16); "
                  "m.save_pretrained(sys.argv[3]); gguf_model.tokenizer(sys.argv[2]).save(sys.argv[3] + '/tokenizer.json')")
        subprocess.run([sys.executable, "-c", script, str(harness.ROOT / "tests" / "reference"), model_path(args), str(path)], check=True)
    return str(path)


class Tenon(harness.Side):
    def versions(self):
        return {"tenon": "0"}

    def prepare(self, case):
        import numpy as np
        self.model, self.figure = model_path(self.args) if case.file == "gguf" else folder_of(self.args), case.figure
        self.run()
        return {"bytes": np.array(self.bytes)}

    def run(self):
        figures = tenon(self.args, "bench", "open", "--model", self.model, "--repeat", "3")["figures"]
        self.bytes = int(figures["weights_bytes"])
        return figures[self.figure]

    def peak_bytes(self):
        return None


class Reader(harness.Side):
    """The package that knows the format and little else."""

    package = None

    def versions(self):
        import gguf
        import safetensors
        import torch
        torch.set_num_threads(self.args.threads)
        import importlib.metadata
        return {"gguf": importlib.metadata.version("gguf"), "safetensors": safetensors.__version__}

    def prepare(self, case):
        import numpy as np
        self.case = case
        self.model = model_path(self.args) if case.file == "gguf" else folder_of(self.args)
        return {"bytes": np.array(self.run_once())}

    def run(self):
        self.run_once()

    def run_once(self):
        if self.case.file == "gguf":
            import gguf
            import numpy as np
            self.reader = gguf.GGUFReader(self.model)
            if self.case.figure == "read_seconds":
                self.arrays = [np.array(t.data) for t in self.reader.tensors]
            return sum(t.n_bytes for t in self.reader.tensors)
        from safetensors.torch import load_file
        tensors = {}
        for file in pathlib.Path(self.model).glob("*.safetensors"):
            tensors |= {name: t.clone() if self.case.figure == "read_seconds" else t for name, t in load_file(file).items()}
        self.tensors = tensors
        return sum(t.numel() * t.element_size() for t in tensors.values())


class Transformers(harness.Side):
    def versions(self):
        import torch
        import transformers
        torch.set_num_threads(self.args.threads)
        return {"transformers": transformers.__version__}

    def prepare(self, case):
        import numpy as np
        self.model, self.reads = folder_of(self.args), case.figure == "read_seconds"
        self.run()
        return {"bytes": np.array(sum(p.numel() * p.element_size() for p in self.loaded.parameters()))}

    def run(self):
        import torch
        import transformers
        self.loaded = transformers.AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.bfloat16)
        if self.reads:
            self.copies = [p.detach().clone() for p in self.loaded.parameters()]  # until then they may lie in the mapped file


def compare(ours, theirs):
    if int(ours["bytes"]) != int(theirs["bytes"]):
        raise harness.Mismatch(f"{int(ours['bytes'])} bytes of weights beside {int(theirs['bytes'])}")
    return f"{int(ours['bytes'])} bytes of weights"


def cases(args):
    yield harness.Case("open SmolLM2, GGUF, with tokenizer", compare, aim=50, repeat=3, sides=["readers"], file="gguf", figure="open_with_tokenizer_seconds")
    yield harness.Case("read SmolLM2, GGUF", compare, aim=50, repeat=3, sides=["readers"], file="gguf", figure="read_seconds", bytes=2 * 83e6)
    yield harness.Case("open SmolLM2, safetensors bf16", compare, aim=5, repeat=5, file="safetensors", figure="open_seconds")
    yield harness.Case("read SmolLM2, safetensors bf16", compare, aim=5, repeat=5, file="safetensors", figure="read_seconds", bytes=2 * 269e6)


if __name__ == "__main__":
    harness.main(__doc__, {"tenon": Tenon, "readers": Reader, "transformers": Transformers}, cases)
