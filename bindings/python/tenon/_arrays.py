"""Arrays of other libraries as tensors of the ABI, without copies, and ours as theirs."""
import ctypes as c

from . import _ffi
from ._library import error

DTYPES = {
    "float64": (_ffi.TN_FLOAT, 64), "float32": (_ffi.TN_FLOAT, 32), "float16": (_ffi.TN_FLOAT, 16), "bfloat16": (_ffi.TN_BFLOAT, 16),
    "int8": (_ffi.TN_INT, 8), "int16": (_ffi.TN_INT, 16), "int32": (_ffi.TN_INT, 32), "int64": (_ffi.TN_INT, 64),
    "uint8": (_ffi.TN_UINT, 8), "uint16": (_ffi.TN_UINT, 16), "uint32": (_ffi.TN_UINT, 32), "uint64": (_ffi.TN_UINT, 64), "bool": (_ffi.TN_BOOL, 8),
}
_NAMES = {v: k for k, v in DTYPES.items()}


def dtype_of(name):
    """tn_dtype of "float32", numpy.float32, torch.float32, …"""
    text = getattr(name, "__name__", None) or str(name)
    text = text.rpartition(".")[2]
    if text not in DTYPES:
        raise error(_ffi.TN_E_ARGUMENT, f"the dtype {name!r} is not one of {', '.join(DTYPES)}")
    code, bits = DTYPES[text]
    return _ffi.tn_dtype(code, bits, 1)


def dtype_name(dtype):
    return _NAMES.get((dtype.code, dtype.bits), f"code {dtype.code} with {dtype.bits} bits")


class View:
    """A tensor of the ABI over memory of another object, which it keeps alive."""

    def __init__(self, pointer, owner, shape, strides, dtype, device, byte_offset=0):
        n = len(shape)
        if n > 4:
            raise error(_ffi.TN_E_ARGUMENT, f"an array of {n} dimensions was given; 0 to 4 are possible")
        self._shape, self._strides = (c.c_int64 * max(n, 1))(*shape), (c.c_int64 * max(n, 1))(*strides)
        self._owner = owner
        self.tensor = _ffi.tn_tensor(pointer, device, n, dtype, self._shape, self._strides, byte_offset)

    @property
    def shape(self):
        return tuple(self._shape[:self.tensor.ndim])

    @property
    def strides(self):
        """In elements."""
        return tuple(self._strides[:self.tensor.ndim])

    @property
    def dtype(self):
        return dtype_name(self.tensor.dtype)


class _DLManaged(c.Structure):
    """DLManagedTensor of DLPack; its DLTensor is tn_tensor."""


_DELETER = c.CFUNCTYPE(None, c.POINTER(_DLManaged))
_DLManaged._fields_ = [("tensor", _ffi.tn_tensor), ("context", c.c_void_p), ("deleter", _DELETER)]

_capsule_pointer = c.PYFUNCTYPE(c.c_void_p, c.py_object, c.c_char_p)(("PyCapsule_GetPointer", c.pythonapi))
_capsule_valid = c.PYFUNCTYPE(c.c_int, c.c_void_p, c.c_char_p)(("PyCapsule_IsValid", c.pythonapi))
_capsule_raw = c.PYFUNCTYPE(c.c_void_p, c.c_void_p, c.c_char_p)(("PyCapsule_GetPointer", c.pythonapi))
_DESTRUCTOR = c.PYFUNCTYPE(None, c.c_void_p)
_capsule_new = c.PYFUNCTYPE(c.py_object, c.c_void_p, c.c_char_p, _DESTRUCTOR)(("PyCapsule_New", c.pythonapi))
_NAME = c.create_string_buffer(b"dltensor")  # outlives every capsule


def dense_strides(shape):
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def from_dlpack(array):
    """A View of anything with __dlpack__; the memory is shared."""
    if not hasattr(array, "__dlpack__"):
        raise TypeError(f"an array with __dlpack__ is needed, not {type(array).__name__}")
    capsule = array.__dlpack__()
    tensor = c.cast(_capsule_pointer(capsule, b"dltensor"), c.POINTER(_DLManaged)).contents.tensor
    shape = tuple(tensor.shape[:tensor.ndim]) if tensor.ndim else ()
    strides = tuple(tensor.strides[:tensor.ndim]) if tensor.ndim and tensor.strides else dense_strides(shape)
    return View(tensor.data, (capsule, array), shape, strides, tensor.dtype, tensor.device, tensor.byte_offset)


def _from_numpy(array, write):
    if write and not array.flags.writeable:
        raise error(_ffi.TN_E_ARGUMENT, "the array is read-only and would be written; give a writable one, for example a copy()")
    name = array.dtype.name
    if name not in DTYPES or not array.dtype.isnative:
        raise error(_ffi.TN_E_ARGUMENT, f"arrays of the dtype {array.dtype.str} cannot be used; convert it to float32 with astype")
    item = array.dtype.itemsize
    if any(s % item for s in array.strides):
        raise error(_ffi.TN_E_ARGUMENT, f"the array's strides {array.strides} are no multiples of its elements of {item} bytes; copy it first")
    return View(array.ctypes.data, array, array.shape, [s // item for s in array.strides], dtype_of(name), _ffi.tn_device_id(_ffi.TN_CPU, 0))


def borrow(array, write=False):
    """What passes an array to the library: an object with a `tensor`. `write`: the call changes it."""
    if isinstance(getattr(array, "tensor", None), _ffi.tn_tensor):
        return array
    if hasattr(array, "__array_interface__") and hasattr(array, "flags"):
        return _from_numpy(array, write)
    return from_dlpack(array)


_exported = {}  # address -> what a DLPack consumer holds


@_DELETER
def _delete(managed):
    _exported.pop(c.addressof(managed.contents), None)


@_DESTRUCTOR
def _destroy(capsule):
    # A consumer renames the capsule and calls the deleter itself; an unused capsule does it here.
    if _capsule_valid(capsule, b"dltensor"):
        _exported.pop(_capsule_raw(capsule, b"dltensor"), None)


def to_dlpack(view, keep):
    """A capsule over `view`; `keep` lives until its consumer is done."""
    managed = _DLManaged(view.tensor, None, _delete)
    address = c.addressof(managed)
    _exported[address] = (managed, view, keep)
    return _capsule_new(address, c.cast(_NAME, c.c_char_p), _destroy)
