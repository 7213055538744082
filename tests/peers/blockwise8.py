"""Block-wise 8-bit codes of 2048 × 5632 numbers: quantize and dequantize, with bitsandbytes on the CPU.

The check: equal scales; decoded numbers no farther from the originals than the peer's, and from the peer's no farther than both errors
together. Codes are not equal everywhere: bitsandbytes' CPU encoder is coarse near zero and does not map 0 to 0.
"""
import harness
from tenon_side import Binding, Named
from torch_side import Torch, numpy_of

BLOCK = 256


def values_of(case):
    import numpy as np
    return np.random.default_rng(4).standard_normal(tuple(case.shape), np.float32)


class Tenon(Binding):
    def build(self, case):
        import numpy as np
        self.what = case.what
        values = values_of(case)
        self.codec = self.session.quantizer(f"blockwise-8bit:blocksize={BLOCK}")
        self.values, self.out = self.tensor(values), self.session.tensor(tuple(case.shape))
        self.coded = self.codec.encode(Named(self.values))
        self.codec.decode(self.coded, out=self.out)
        return {"absmax": np.frombuffer(self.coded.component("absmax"), np.float32), "decoded": self.array(self.out)[:64], "values": values[:64]}

    def run(self):
        if self.what == "quantize":
            self.coded = self.codec.encode(Named(self.values))
        else:
            self.codec.decode(self.coded, out=self.out)


class BitsAndBytes(Torch):
    packages = ("torch", "bitsandbytes")

    def prepare(self, case):
        import torch
        self.what = case.what
        self.values = torch.from_numpy(values_of(case))
        self.quantize()
        return {"absmax": numpy_of(self.state.absmax), "decoded": numpy_of(self.dequantized())[:64]}

    def quantize(self):
        import bitsandbytes.functional as F
        self.codes, self.state = F.quantize_blockwise(self.values, blocksize=BLOCK)

    def dequantized(self):
        import bitsandbytes.functional as F
        return F.dequantize_blockwise(self.codes, self.state)

    def run(self):
        if self.what == "quantize":
            self.quantize()
        else:
            self.out = self.dequantized()


def compare(ours, theirs):
    if harness.relative(ours["absmax"], theirs["absmax"]) > 1e-7:
        raise harness.Mismatch("the scales differ")
    own, other = (harness.relative(side["decoded"], ours["values"]) for side in (ours, theirs))
    between = harness.relative(ours["decoded"], theirs["decoded"])
    if own > other * 1.001 or between > own + other:
        raise harness.Mismatch(f"decoded numbers are {own:.3g} from the originals, the peer's {other:.3g}, and {between:.3g} from each other")
    return f"scales equal, error {own:.2g} (the peer's {other:.2g})"


def cases(args):
    shape = (256, 704) if args.quick else (2048, 5632)
    n = shape[0] * shape[1]
    for what, aim in (("quantize", 5), ("dequantize", 4)):
        yield harness.Case(f"block-wise 8-bit {what}, f32", compare, work=n / 1e6, unit="M elements/s", bytes=(5 + 4 / BLOCK) * n, aim=aim,
                           aim_limit=0.8, what=what, shape=shape)


if __name__ == "__main__":
    harness.main(__doc__, {"tenon": Tenon, "bitsandbytes": BitsAndBytes}, cases)
