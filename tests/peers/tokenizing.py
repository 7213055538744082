"""Token ids of a long text (this repository's own sources and documents) under SmolLM2's tokenizer: Hugging Face tokenizers, one thread.

The check: every id.
"""
import pathlib
import subprocess

import harness
from tenon_side import model_path, tenon


def corpus(args, folder):
    """One file; both sides read it."""
    path = folder / "corpus.txt"
    if not path.exists():
        listed = subprocess.run(["git", "-C", str(harness.ROOT), "ls-files", "*.md", "*.h", "*.cpp", "*.py", "*.txt"], stdout=subprocess.PIPE, text=True, check=True)
        parts, size = [], 0
        for name in listed.stdout.splitlines():
            parts.append((harness.ROOT / name).read_text(encoding="utf-8"))
            size += len(parts[-1])
            if size > (200_000 if args.quick else 3_000_000):
                break
        path.write_text("\n".join(parts), encoding="utf-8")
    return path


class Tenon(harness.Side):
    def versions(self):
        return {"tenon": "0"}

    def prepare(self, case):
        import numpy as np
        self.path = corpus(self.args, self.folder)
        self.model = model_path(self.args)
        return {"ids": np.array(tenon(self.args, "tokenize", "--model", self.model, "--text-file", str(self.path))["ids"], np.int32)}

    def run(self):
        figures = tenon(self.args, "bench", "tokenize", "--model", self.model, "--data", str(self.path), "--repeat", "1")["figures"]
        return figures["text_bytes"] / 1e6 / figures["text_megabytes_per_second"]

    def peak_bytes(self):
        return None


class Tokenizers(harness.Side):
    def versions(self):
        import os
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        import tokenizers
        return {"tokenizers": tokenizers.__version__}

    def prepare(self, case):
        import numpy as np
        import training
        self.text = corpus(self.args, self.folder).read_text(encoding="utf-8")
        self.tokenizer = training.tokenizer(model_path(self.args))
        self.run()
        return {"ids": np.array(self.ids, np.int32)}

    def run(self):
        self.ids = self.tokenizer.encode(self.text, add_special_tokens=False).ids


def compare(ours, theirs):
    import numpy as np
    if not np.array_equal(ours["ids"], theirs["ids"]):
        raise harness.Mismatch(f"{len(ours['ids'])} ids beside {len(theirs['ids'])}, and they are not the same")
    return f"{len(ours['ids'])} ids equal"


def cases(args):
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        size = corpus(args, pathlib.Path(folder)).stat().st_size
    yield harness.Case("tokenize, one thread", compare, work=size / 1e6, unit="MB/s", aim=3)


if __name__ == "__main__":
    harness.main(__doc__, {"tenon": Tenon, "tokenizers": Tokenizers}, cases)
