"""Any optimizer plugin as a torch.optim.Optimizer."""
import torch

from . import _ffi
from ._arrays import borrow
from ._library import error
from .context import Context
from .session import Session
from .techniques import Param

_DEVICES = {"cpu": "onednn", "cuda": "hip" if getattr(torch.version, "hip", None) else "cuda"}


def _role(p):
    return "norm" if p.ndim < 2 else "other"


class Optimizer(torch.optim.Optimizer):
    """Drop-in: `Optimizer(model.parameters(), "galore:rank=128", lr=1e-3)`.

    technique: a spec of an installed optimizer; a parameter group may have its own "technique", "lr" and "role" ("q", "embedding", …: what
    some methods look at). The states live in Tenon's counted memory, part of state_dict() as one tensor of bytes for each group.
    Parameters are float32 or bfloat16, gradients too; update on the device that they are on.
    """

    def __init__(self, params, technique, lr=1e-3, *, session=None, seed=0, total_steps=0):
        if not lr >= 0:
            raise ValueError(f"the learning rate {lr} is negative")
        self._session, self._instances, self._next_uid = session, [], 0
        self._seed, self._total_steps = seed, total_steps
        super().__init__(params, {"lr": lr, "technique": technique, "role": None})

    @property
    def session(self):
        """The tenon.Session that the states are counted on."""
        return self._session

    def state_bytes(self):
        return sum(instance.state_bytes for instance in self._instances)

    def add_param_group(self, param_group):
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self._instances.append(self._instance(group))
        except Exception:
            self.param_groups.pop()
            raise

    def _instance(self, group):
        params = group["params"]
        kinds = {p.device.type for p in params}
        if self._session is None:
            kind = next(iter(kinds), "cpu")
            if kind not in _DEVICES:
                raise error(_ffi.TN_E_UNSUPPORTED, f"parameters on the device {kind} cannot be updated; devices are {', '.join(_DEVICES)}")
            index = params[0].device.index if params else None
            self._session = Session(Context(), _DEVICES[kind] + (f":{index}" if index else ""))
        instance = self._session.optimizer(group["technique"])
        described = []
        for p in params:
            described.append(Param(tuple(p.shape), str(p.dtype), group["role"] or _role(p), self._next_uid, f"parameter {self._next_uid}"))
            self._next_uid += 1
        return instance.bind(described)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group, instance in zip(self.param_groups, self._instances):
            grads, values = [], []
            for p in group["params"]:
                if p.grad is not None and p.grad.is_sparse:
                    raise error(_ffi.TN_E_UNSUPPORTED, "a parameter has a sparse gradient; use dense gradients (sparse=False)")
                grads.append(None if p.grad is None else p.grad.detach().contiguous())
                values.append(p.detach().contiguous())
            if any(p.is_cuda for p in group["params"]):
                torch.cuda.current_stream().synchronize()  # the session has a stream of its own
            instance.step([borrow(v) for v in values], [None if g is None else borrow(g) for g in grads], lr=float(group["lr"]), seed=self._seed,
                          total_steps=self._total_steps)
            for p, value in zip(group["params"], values):
                if value.data_ptr() != p.data_ptr():  # was not contiguous
                    p.copy_(value)
        return loss

    def state_dict(self):
        answer = super().state_dict()
        answer["tenon"] = [torch.frombuffer(bytearray(i.save()), dtype=torch.uint8) for i in self._instances]
        return answer

    def load_state_dict(self, state_dict):
        if "tenon" not in state_dict or len(state_dict["tenon"]) != len(state_dict["param_groups"]):
            raise ValueError("this is not the state_dict of a tenon.torch.Optimizer")
        techniques = [group["technique"] for group in self.param_groups]
        for ours, theirs in zip(techniques, (g.get("technique") for g in state_dict["param_groups"])):
            if ours != theirs:
                raise ValueError(f"the state_dict is of {theirs!r}, this group uses {ours!r}")
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "tenon"})
        for instance, states in zip(self._instances, state_dict["tenon"]):
            instance.load(states.cpu().numpy().tobytes())
