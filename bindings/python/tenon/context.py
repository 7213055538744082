"""What is installed, and what mixes."""
import ctypes as c
import json
import threading

from . import _ffi
from ._library import check, encode, error, lib, take, texts

KINDS = {"device": _ffi.TN_KIND_DEVICE, "optimizer": _ffi.TN_KIND_OPTIMIZER, "adapter": _ffi.TN_KIND_ADAPTER, "quantizer": _ffi.TN_KIND_QUANTIZER,
         "attention": _ffi.TN_KIND_ATTENTION}


class Handle:
    """Something of the library's that is closed once: by close(), by `with`, or when it is forgotten."""

    _what = "object"

    def __init__(self, address, lock):
        self._address, self._lock = address, lock

    @property
    def closed(self):
        return not self.__dict__.get("_address")

    @property
    def _handle(self):
        if self.closed:
            raise error(_ffi.TN_E_STATE, f"the {self._what} is closed; make a new one")
        return self._address

    def close(self):
        if not self.closed:
            with self._lock:
                self._free(self._address)
                self._address = None

    def __enter__(self):
        self._handle
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        try:
            self.close()
        except Exception:  # the interpreter is going, or views outlive what they look at: then the memory stays
            pass


class Context(Handle):
    """The plugins of some stores (folders); none given: the user's store and the one that came with the library."""

    _what = "context"

    def __init__(self, *stores):
        out = c.c_void_p()
        array, n = texts(stores, "stores")
        check(lib.tn_context_open(array, n, out))
        super().__init__(out.value, threading.RLock())
        self._sessions = 0

    def close(self):
        if not self.closed and self._sessions:
            raise error(_ffi.TN_E_STATE, f"{self._sessions} sessions of this context are open; close them first")
        super().close()

    def _free(self, address):
        lib.tn_context_close(address)

    def _json(self, function, *arguments):
        out = c.c_void_p()
        with self._lock:
            check(function(self._handle, *arguments, out))
        return json.loads(take(out))

    def plugins(self, kind=None):
        """[{"id", "kind", "version", "name", "summary", "backends", "store"}]"""
        return self._json(lib.tn_plugin_list, None if kind is None else encode(kind, "kind"))

    def info(self, plugin):
        """The manifest, with the schema of the hyper-parameters."""
        return self._json(lib.tn_plugin_info, encode(plugin, "plugin"))

    def install(self, folder):
        return self._json(lib.tn_plugin_install, encode(folder, "folder"))

    def remove(self, plugin):
        with self._lock:
            check(lib.tn_plugin_remove(self._handle, encode(plugin, "plugin")))

    def verify(self):
        return self._json(lib.tn_plugin_verify)

    def rescan(self):
        return self._json(lib.tn_plugin_rescan)

    def check(self, *, optimizer=None, adapters=(), quantizer=None, attention=None, tags=()):
        """{"possible", "reasons": [{"plugin", "sentence"}], "techniques"} of a mix: specs such as "galore:rank=128"."""
        mix = [("optimizer", optimizer), *(("adapter", a) for a in adapters), ("quantizer", quantizer), ("attention", attention)]
        mix = [(kind, spec) for kind, spec in mix if spec is not None]
        kinds = (c.c_uint32 * max(len(mix), 1))(*(KINDS[kind] for kind, _ in mix))
        specs, n = texts([spec for _, spec in mix], "specs")
        run_tags, n_tags = texts(tags, "tags")
        return self._json(lib.tn_check, kinds, specs, n, run_tags, n_tags)

    def session(self, device="auto", memory_limit=0):
        """Opens a device: "auto", "onednn", "cuda", "hip", "cuda:1". memory_limit in bytes, 0 = none."""
        from .session import Session
        return Session(self, device, memory_limit)
