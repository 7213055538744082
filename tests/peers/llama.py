"""Prompt (512 tokens) and decoding (64 tokens after it) of SmolLM2 from one Q4_1 GGUF file: llama-cpp-python.

The check: sixteen tokens that Tenon finds likeliest after a prompt are read by llama.cpp, whose logit for each must be near its own largest. The texts
themselves may part, since llama.cpp rounds activations to 8 bits before a product and Tenon does not.
"""
import pathlib

import harness
from tenon_side import model_path, tenon

CHECKED, NEAR = 16, 0.5  # tokens; nats


def text_of(args):
    return pathlib.Path(args.text).read_text(encoding="utf-8")


class Tenon(harness.Side):
    def versions(self):
        return {"tenon": "0"}

    def mix(self, case):
        return ["--model", model_path(self.args), "--threads", str(self.args.threads), *case.flags]

    def prepare(self, case):
        import numpy as np
        self.case = case
        ids = tenon(self.args, "tokenize", "--model", model_path(self.args), "--text-file", self.args.text)["ids"]
        prompt = self.folder / "prompt.txt"
        prompt.write_text(text_of(self.args)[:200], encoding="utf-8")
        answer = tenon(self.args, "generate", *self.mix(case), "--prompt-file", str(prompt), "--raw", "--max-new-tokens", str(CHECKED), "--temperature", "0",
                       "--ignore-eos")
        np.save(self.folder / "ids.npy", np.array(ids[:case.prompt], np.int32))
        np.save(self.folder / "next.npy", np.array(answer["ids"], np.int32))
        return {"next": np.array(answer["ids"])}

    def run(self):
        figures = tenon(self.args, "bench", "generate", *self.mix(self.case), "--data", self.args.text, "--seq-len", str(self.case.prompt),
                        "--new-tokens", str(self.case.new), "--repeat", "1")["figures"]
        self.peak = int(figures["peak_bytes"])
        return self.case.prompt / figures["prompt_tokens_per_second"] if self.case.what == "prompt" else (self.case.new - 1) / figures["decode_tokens_per_second"]

    def peak_bytes(self):
        return self.peak


class LlamaCpp(harness.Side):
    once = True

    def versions(self):
        import llama_cpp
        return {"llama-cpp-python": llama_cpp.__version__}

    def prepare(self, case):
        import llama_cpp
        import numpy as np
        self.case = case
        self.ids = np.load(self.folder / "ids.npy").tolist()
        self.llama = llama_cpp.Llama(model_path(self.args), n_ctx=case.prompt + case.new + 8, n_batch=512, n_threads=self.args.threads,
                                     n_threads_batch=self.args.threads, verbose=False, logits_all=False)
        prompt = self.llama.tokenize((self.folder / "prompt.txt").read_bytes(), add_bos=False, special=True)
        return {"below": self.below(prompt, np.load(self.folder / "next.npy").tolist())}

    def below(self, ids, next):
        """For each token of `next`, read one by one: how far its logit is below the largest."""
        import numpy as np
        self.llama.reset()
        out = []
        for token in next:
            self.llama.eval(ids)
            logits = np.ctypeslib.as_array(self.llama._ctx.get_logits(), shape=(self.llama.n_vocab(),))
            out.append(float(logits.max() - logits[token]))
            ids = [token]
        return np.array(out)

    def run(self):
        import time
        self.llama.reset()
        begin = time.perf_counter()
        self.llama.eval(self.ids)
        if self.case.what == "prompt":
            return time.perf_counter() - begin
        token = self.llama.sample(temp=0.0)
        begin = time.perf_counter()
        for _ in range(self.case.new - 1):
            self.llama.eval([token])
            token = self.llama.sample(temp=0.0)
        return time.perf_counter() - begin


def compare(ours, theirs):
    import numpy as np
    worst = float(np.max(theirs["below"]))
    if len(theirs["below"]) != CHECKED or not worst <= NEAR:
        raise harness.Mismatch(f"a token of ours is {worst:.2f} nats below the likeliest of theirs, more than {NEAR:g}")
    return f"{CHECKED} tokens within {worst:.2f} nats of the peer's likeliest"


def cases(args):
    prompt, new = (64, 8) if args.quick else (512, 64)
    weights = 66355200 + 30081024  # bytes that decoding must read for a token: the linear weights in Q4_1 and the head, which is the embedding, in Q8_0
    for what, aim, work in (("prompt", 2.5, prompt), ("decode", 1.3, new - 1)):
        yield harness.Case(f"{what}, SmolLM2 Q4_1", compare, work=work, unit="tokens/s", aim=aim, repeat=5, what=what,
                           aim_limit=0.7 if what == "decode" else None, prompt=prompt, new=new,
                           bytes=weights * (new - 1) if what == "decode" else 0, flops=2 * 134.5e6 * prompt if what == "prompt" else 0, flops_type="f32",
                           flags=["--quantizer", "gguf-blocks:type=Q4_1", "--embeddings", "gguf-blocks:type=Q8_0"] if what == "decode" else [])


if __name__ == "__main__":
    harness.main(__doc__, {"tenon": Tenon, "llama-cpp-python": LlamaCpp}, cases)
