"""torch in a side's process."""
import importlib.metadata

from harness import Side


class Torch(Side):
    packages = ("torch",)

    def versions(self):
        import torch
        torch.set_num_threads(self.args.threads)
        return {name: importlib.metadata.version(name) for name in self.packages}


def dtype_of(name):
    import torch
    return {"f32": torch.float32, "bf16": torch.bfloat16}[name]


def numpy_of(tensor):
    return tensor.detach().float().numpy().copy()
