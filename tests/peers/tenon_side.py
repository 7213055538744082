"""Tenon in a side's process: its program, and its Python binding over the libraries of a build folder."""
import ctypes
import gc
import json
import os
import pathlib
import subprocess
import sys

from harness import ROOT, Side


def binary(args):
    return str(pathlib.Path(args.build) / "bin" / "tenon")


def environment(args):
    build = pathlib.Path(args.build).resolve()
    return dict(os.environ, TENON_LIBRARY_PATH=str(build / "lib"), TENON_HOME=os.environ.get("TENON_HOME") or str(build / "lib" / "tenon"),
                OMP_NUM_THREADS=str(args.threads))


def tenon(args, *command):
    """What `tenon COMMAND --json` prints."""
    done = subprocess.run([binary(args), *command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(args))
    if done.returncode:
        raise RuntimeError(f"tenon {command[0]} {command[1]}: " + (done.stderr.strip().splitlines() or ["no message"])[-1])
    return json.loads(done.stdout)


def model_path(args):
    if args.model:
        return args.model
    done = subprocess.run([str(ROOT / "examples" / "fetch-model"), str(pathlib.Path(args.build) / "models")], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


class Binding(Side):
    """A side over the Python binding; `self.session` is an opened device."""

    def versions(self):
        os.environ.update(environment(self.args))
        sys.path.insert(0, str(ROOT / "bindings" / "python"))
        import tenon
        return {"tenon": getattr(tenon, "__version__", "0")}

    def prepare(self, case):
        import tenon
        self.session = tenon.Session(tenon.Context(), "auto")
        return self.build(case)

    def build(self, case):
        raise NotImplementedError

    def tensor(self, array, dtype="float32"):
        """A tensor of the session with the numbers of an array; bfloat16 rounds to nearest, ties to even."""
        import numpy as np
        t = self.session.tensor(array.shape, dtype)
        if dtype == "bfloat16":
            view = np.frombuffer((ctypes.c_char * t.nbytes).from_address(t.tensor.data), np.uint16).reshape(array.shape)
            view[...] = to_bf16(array)
        else:
            t.numpy()[...] = array
        return t

    def array(self, t):
        """The numbers of a tensor as f32."""
        import numpy as np
        if t.dtype == "bfloat16":
            bits = np.frombuffer((ctypes.c_char * t.nbytes).from_address(t.tensor.data), np.uint16).reshape(t.shape)
            return from_bf16(bits)
        return t.numpy().astype(np.float32)

    def finish(self):
        session = self.session
        super().finish()
        gc.collect()  # arrays that look at its tensors
        session.close()


class Named:
    """A tensor of the session as an array that encode() may make others like."""

    def __init__(self, tensor):
        self.tensor, self.shape, self.dtype = tensor.tensor, tensor.shape, tensor.dtype
        self._owner = tensor

    def new_empty(self, shape):
        return None


def to_bf16(array):
    import numpy as np
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    import numpy as np
    return (bits.astype(np.uint32) << 16).view(np.float32)
