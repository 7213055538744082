"""Tenon: memory-efficient LLM training techniques as plugins, from Python.

A Context knows what is installed and what mixes; a Session is an opened device with counted memory; optimizers, quantizers and attention
kernels are made on a session and work on NumPy arrays, torch tensors and everything else that speaks DLPack, without copies. A Trainer
runs whole training sessions from a recipe. `tenon.torch.Optimizer` puts any optimizer plugin behind torch's interface.
"""
from ._arrays import View, from_dlpack
from ._library import (ArgumentError, CancelledError, ConflictError, DeviceError, FormatError, InternalError, IOFailure, NotFoundError, NumericError,
                       OutOfMemoryError, StateError, TenonError, TrustError, UnsupportedError, VersionError, abi_version, set_log, version)
from .context import Context
from .session import Session, Tensor
from .techniques import Attention, Coded, Optimizer, Param, Quantizer
from .trainer import Step, Trainer, recipe_keys

__version__ = "0.9.0"
__all__ = [
    "ArgumentError", "Attention", "CancelledError", "Coded", "ConflictError", "Context", "DeviceError", "FormatError", "IOFailure", "InternalError",
    "NotFoundError", "NumericError", "Optimizer", "OutOfMemoryError", "Param", "Quantizer", "Session", "StateError", "Step", "Tensor", "TenonError",
    "Trainer", "TrustError", "UnsupportedError", "VersionError", "View", "abi_version", "from_dlpack", "recipe_keys", "set_log", "version"
]
