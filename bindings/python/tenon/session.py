"""An opened device, and tensors in its counted memory."""
import ctypes as c
import json
import threading
import weakref

from . import _ffi
from ._arrays import borrow, dtype_name, dtype_of, to_dlpack
from ._library import check, encode, error, lib, take
from .context import Context, Handle

CATEGORIES = {"weights": _ffi.TN_MEMORY_WEIGHTS, "gradients": _ffi.TN_MEMORY_GRADIENTS, "optimizer state": _ffi.TN_MEMORY_OPTIMIZER_STATE,
              "adapter": _ffi.TN_MEMORY_ADAPTER, "activations": _ffi.TN_MEMORY_ACTIVATIONS, "workspace": _ffi.TN_MEMORY_WORKSPACE,
              "codec": _ffi.TN_MEMORY_CODEC}


class Session(Handle):
    """A device with a stream and counted memory. Calls from several threads take turns. What was made on it is closed with it."""

    _what = "session"

    def __init__(self, context=None, device="auto", memory_limit=0):
        context = Context() if context is None else context
        out = c.c_void_p()
        if not 0 <= memory_limit < 1 << 64:
            raise error(_ffi.TN_E_ARGUMENT, f"the memory limit {memory_limit} is not a number of bytes")
        with context._lock:
            check(lib.tn_session_open(context._handle, encode(device, "device"), memory_limit, out))
            context._sessions += 1
        super().__init__(out.value, threading.RLock())
        self.context = context
        self._children = weakref.WeakSet()
        # What the session still has to free: address -> (order, function). Not by way of the children, which a garbage collector may have
        # finalised in any order.
        self._owned = {}

    def _free(self, address):
        for child in list(self._children):
            if child._in_use():
                raise error(_ffi.TN_E_STATE, f"a {child._what} of this session is still viewed by an array; drop the array before closing the session")
        for owned, (_, free) in sorted(self._owned.items(), key=lambda item: item[1][0]):
            free(owned)
        self._owned.clear()
        lib.tn_session_close(address)
        with self.context._lock:
            self.context._sessions -= 1

    def info(self):
        """{"backend", "name", "arch", "total_bytes", "live_bytes", "peak_bytes", "categories", …}"""
        out = c.c_void_p()
        with self._lock:
            check(lib.tn_session_info(self._handle, out))
        return json.loads(take(out))

    def wait(self):
        with self._lock:
            check(lib.tn_session_wait(self._handle))

    def tensor(self, shape, dtype="float32", category="weights"):
        """A dense tensor of zeros on the device."""
        return Tensor(self, shape, dtype, category)

    def optimizer(self, spec):
        from .techniques import Optimizer
        return Optimizer(self, spec)

    def quantizer(self, spec):
        from .techniques import Quantizer
        return Quantizer(self, spec)

    def attention(self, spec, *, heads, head_size, kv_heads=None, value_size=None, scale=0.0, softcap=0.0, layer=0, layers=1):
        from .techniques import Attention
        return Attention(self, spec, heads, heads if kv_heads is None else kv_heads, head_size, head_size if value_size is None else value_size,
                         scale, softcap, layer, layers)


class Child(Handle):
    """Made on a session, which closes it at the latest. Lower _order goes first."""

    _order = 1

    def __init__(self, session, address):
        super().__init__(address, session._lock)
        self.session, self._owned = session, session._owned
        self._owned[address] = (self._order, self._release)
        session._children.add(self)

    @property
    def closed(self):
        return self.__dict__.get("_address") not in self.__dict__.get("_owned", ())

    @property
    def _release(self):
        """function(address), which must not hold the object itself."""
        raise NotImplementedError

    def _free(self, address):
        self._release(address)
        del self._owned[address]

    def _in_use(self):
        return False


class _Exported:
    """What an array over a tensor keeps alive."""

    def __init__(self, tensor, interface=None):
        self.owner = tensor
        if interface:
            self.__array_interface__ = interface


class Tensor(Child):
    """A dense row-major tensor in the session's memory. NumPy, torch and others look at it with __dlpack__, on the CPU without a copy."""

    _what, _order = "tensor", 2

    def __init__(self, session, shape, dtype, category):
        if category not in CATEGORIES:
            raise error(_ffi.TN_E_ARGUMENT, f"the memory category {category!r} is not one of {', '.join(CATEGORIES)}")
        shape = tuple(int(s) for s in (shape if hasattr(shape, "__iter__") else (shape,)))
        if any(not -(1 << 63) <= s < 1 << 63 for s in shape):
            raise error(_ffi.TN_E_ARGUMENT, f"the shape {shape} makes no tensor")
        out = c.POINTER(_ffi.tn_tensor)()
        sizes = (c.c_int64 * max(len(shape), 1))(*shape)
        with session._lock:
            check(lib.tn_tensor_alloc(session._handle, CATEGORIES[category], dtype_of(dtype), len(shape), sizes, out))
        super().__init__(session, c.addressof(out.contents))
        self._views = weakref.WeakSet()

    def _in_use(self):
        return bool(self._views)

    @property
    def _release(self):
        session = self.session._address
        return lambda address: lib.tn_tensor_free(session, c.cast(address, c.POINTER(_ffi.tn_tensor)))

    def _free(self, address):
        if self._views:
            raise error(_ffi.TN_E_STATE, "the tensor is still viewed by an array; drop the array before closing the tensor")
        super()._free(address)

    @property
    def tensor(self):
        return _ffi.tn_tensor.from_address(self._handle)

    @property
    def shape(self):
        return tuple(self.tensor.shape[:self.tensor.ndim])

    @property
    def dtype(self):
        return dtype_name(self.tensor.dtype)

    @property
    def nbytes(self):
        n = self.tensor.dtype.bits // 8
        for size in self.shape:
            n *= size
        return n

    def write(self, array):
        """Copies an array of the same shape and dtype into the tensor."""
        with self._lock:
            source = borrow(array)
            dense = _dense_bytes(self, source)
            check(lib.tn_tensor_write(self.session._handle, self.tensor, dense, self.nbytes))
        return self

    def read(self, array):
        """Copies the tensor into a writable array of the same shape and dtype."""
        with self._lock:
            target = borrow(array, write=True)
            check(lib.tn_tensor_read(self.session._handle, self.tensor, _dense_bytes(self, target), self.nbytes))
        return array

    def numpy(self):
        """A NumPy array over the same memory (CPU only); bfloat16 has no NumPy type."""
        import numpy
        if self.tensor.device.type != _ffi.TN_CPU:
            raise error(_ffi.TN_E_UNSUPPORTED, "the tensor is not in host memory; use read()")
        if self.dtype not in numpy.__dict__ and self.dtype != "bool":
            raise error(_ffi.TN_E_UNSUPPORTED, f"NumPy has no type {self.dtype}")
        exported = _Exported(self, {"version": 3, "shape": self.shape, "typestr": numpy.dtype(self.dtype).str, "data": (self.tensor.data or 0, False)})
        self._views.add(exported)
        return numpy.asarray(exported)

    def __dlpack_device__(self):
        return self.tensor.device.type, self.tensor.device.index

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        if copy:
            raise BufferError("the tensor is shared, not copied; copy what from_dlpack answers")
        if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
            raise BufferError("the tensor stays on its device; copy it with read()")
        self.session.wait()
        exported = _Exported(self)
        self._views.add(exported)
        return to_dlpack(self, exported)


def _dense_bytes(tensor, other):
    """The address of `other`'s memory, where it is as dense and large as `tensor`."""
    t = other.tensor
    if t.device.type != _ffi.TN_CPU:
        raise error(_ffi.TN_E_ARGUMENT, "the array is not in host memory")
    if tuple(t.shape[:t.ndim]) != tensor.shape or dtype_name(t.dtype) != tensor.dtype:
        raise error(_ffi.TN_E_ARGUMENT, f"the array has the shape {tuple(t.shape[:t.ndim])} and dtype {dtype_name(t.dtype)}, "
                                        f"the tensor {tensor.shape} and {tensor.dtype}")
    step = 1
    for size, stride in zip(reversed(t.shape[:t.ndim]), reversed(t.strides[:t.ndim])):
        if size > 1 and stride != step:
            raise error(_ffi.TN_E_ARGUMENT, "the array is not dense row-major; copy it with numpy.ascontiguousarray")
        step *= size
    return (t.data or 0) + t.byte_offset
