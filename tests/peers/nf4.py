"""NF4 of one 2048 × 5632 weight: quantize (f32, bf16; plain and double), dequantize to bf16 and f32, with bitsandbytes on the CPU.

The check: codes byte for byte, absmax exactly, and the decoded numbers.
"""
import harness
from tenon_side import Binding, Named
from torch_side import Torch, dtype_of, numpy_of


def weight_of(case):
    import numpy as np
    return np.random.default_rng(3).standard_normal(tuple(case.shape), np.float32) * np.float32(0.02)


class Tenon(Binding):
    dtypes = {"f32": "float32", "bf16": "bfloat16"}

    def build(self, case):
        import numpy as np
        dtype = self.dtypes[case.dtype]
        self.what = case.what
        self.codec = self.session.quantizer(f"nf4:double_quant={'true' if case.double else 'false'}")
        self.weight = self.tensor(weight_of(case), dtype)
        self.coded = self.codec.encode(Named(self.weight))
        self.out = self.session.tensor(tuple(case.shape), dtype)
        self.codec.decode(self.coded, out=self.out)
        names = {name: kind for name, _, kind in self.coded.components()}
        evidence = {"codes": np.frombuffer(self.coded.component("codes"), np.uint8), "decoded": self.array(self.out)[:64]}
        if "absmax" in names and names["absmax"] == "float32":
            evidence["absmax"] = np.frombuffer(self.coded.component("absmax"), np.float32)
        return evidence

    def run(self):
        if self.what == "quantize":
            self.coded = self.codec.encode(Named(self.weight))
        else:
            self.codec.decode(self.coded, out=self.out)


class BitsAndBytes(Torch):
    packages = ("torch", "bitsandbytes")

    def prepare(self, case):
        import torch
        self.what, self.double = case.what, case.double
        self.weight = torch.from_numpy(weight_of(case)).to(dtype_of(case.dtype))
        self.run_quantize()
        evidence = {"codes": self.packed.reshape(-1).numpy().copy(), "decoded": numpy_of(self.dequantized())[:64]}
        if not case.double:
            evidence["absmax"] = numpy_of(self.state.absmax)
        return evidence

    def run_quantize(self):
        import bitsandbytes.functional as F
        self.packed, self.state = F.quantize_4bit(self.weight, blocksize=64, quant_type="nf4", compress_statistics=self.double)

    def dequantized(self):
        import bitsandbytes.functional as F
        return F.dequantize_4bit(self.packed, self.state)

    def run(self):
        if self.what == "quantize":
            self.run_quantize()
        else:
            self.out = self.dequantized()


def compare(ours, theirs):
    import numpy as np
    count, different = ours["codes"].size, np.count_nonzero(ours["codes"] != theirs["codes"])
    if count != theirs["codes"].size or different > 1e-5 * count:
        raise harness.Mismatch(f"{different} of {count} bytes of codes differ")
    if "absmax" in ours and "absmax" in theirs and not np.array_equal(ours["absmax"].ravel(), theirs["absmax"].ravel()):
        raise harness.Mismatch("absmax differs")
    distance = harness.relative(ours["decoded"], theirs["decoded"])
    if distance > 5e-3:
        raise harness.Mismatch(f"decoded numbers differ by {distance:.2g} relative")
    codes = "codes equal" if not different else f"{different} of {count} bytes of codes differ"
    return f"{codes}, decoded equal to {distance:.1g}"


def cases(args):
    shape = (256, 704) if args.quick else (2048, 5632)
    n = shape[0] * shape[1]
    code = 0.5 + 4 / 64
    for what, dtype, double, aim in (("quantize", "f32", False, 15), ("quantize", "bf16", False, 15), ("quantize", "f32", True, None),
                                     ("dequantize", "bf16", False, 4), ("dequantize", "f32", False, 4), ("dequantize", "bf16", True, None)):
        size = 4 if dtype == "f32" else 2
        yield harness.Case(f"NF4 {what}, {dtype}{', double' if double else ''}", compare, work=n / 1e6, unit="M elements/s", bytes=(size + code) * n, aim=aim, aim_limit=0.8,
                           what=what, dtype=dtype, double=double, shape=shape)


if __name__ == "__main__":
    harness.main(__doc__, {"tenon": Tenon, "bitsandbytes": BitsAndBytes}, cases)
