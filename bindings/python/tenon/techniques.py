"""Optimizers, quantizers and attention on arrays of the caller."""
import ctypes as c
import dataclasses

from . import _ffi
from ._arrays import borrow, dense_strides, dtype_name, dtype_of
from ._library import check, encode, error, lib, take
from .session import Child

ROLES = {name[len("TN_ROLE_"):].lower(): value for name, value in vars(_ffi).items() if name.startswith("TN_ROLE_") and value}


def role_of(name):
    if name not in ROLES:
        raise error(_ffi.TN_E_ARGUMENT, f"the role {name!r} is not one of {', '.join(ROLES)}")
    return ROLES[name]


class Technique(Child):
    """An instance of a plugin."""

    _order = 1

    @property
    def _release(self):
        return lib.tn_technique_destroy

    def _in_turn(self, function, *arguments):
        with self._lock:
            check(function(self._handle, *arguments))

    @property
    def spec(self):
        """The canonical spec, with every value."""
        out = c.c_void_p()
        self._in_turn(lib.tn_technique_spec, out)
        return take(out)


def _create(session, kind, spec):
    out = c.c_void_p()
    with session._lock:
        check(lib.tn_technique_create(session._handle, kind, encode(spec, "spec"), out))
    return out.value


@dataclasses.dataclass(frozen=True)
class Param:
    """A parameter for Optimizer.bind. uid: its number in random streams and states, the same in every run."""

    shape: tuple
    dtype: str = "float32"
    role: str = "other"
    uid: int = None
    name: str = ""
    block: int = -1


def _pointers(arrays, write, n, what):
    views = [None if a is None else borrow(a, write) for a in arrays]
    if len(views) != n:
        raise error(_ffi.TN_E_ARGUMENT, f"{len(views)} {what} were given for the {n} parameters that are bound")
    kept = [None if v is None else v.tensor for v in views]
    array = (c.POINTER(_ffi.tn_tensor) * max(n, 1))()
    for i, tensor in enumerate(kept):
        if tensor is not None:
            array[i] = c.pointer(tensor)
    return array, (views, kept)


class Optimizer(Technique):
    _what = "optimizer"

    def __init__(self, session, spec):
        super().__init__(session, _create(session, _ffi.TN_KIND_OPTIMIZER, spec))
        self._n = 0

    def bind(self, params):
        """Once, with all parameters: Param, or arrays as they are. Allocates the states."""
        params = [p if isinstance(p, Param) else _param_like(p) for p in params]
        structs = []
        for i, p in enumerate(params):
            if len(p.shape) > 4:
                raise error(_ffi.TN_E_ARGUMENT, f"parameter {i} has {len(p.shape)} dimensions; 0 to 4 are possible")
            structs.append(
                _ffi.tn_param(uid=i if p.uid is None else p.uid, role=role_of(p.role), repr=_ffi.TN_REPR_DENSE, block=p.block, tied_to=-1,
                              dtype=dtype_of(p.dtype), ndim=len(p.shape), in_axis=1 if len(p.shape) == 2 else -1, shape=tuple(p.shape),
                              name=encode(p.name or f"parameter {i}", "name")))
        array = (c.POINTER(_ffi.tn_param) * max(len(structs), 1))(*(c.pointer(s) for s in structs))
        self._in_turn(lib.tn_optimizer_bind, array, len(structs))
        self._n = len(structs)
        return self

    def step(self, params, grads, *, lr, seed=0, total_steps=0, tokens=0, grad_scale=1.0):
        """Updates params in place from grads (None: no gradient in this step), in the order of bind."""
        update = _ffi.tn_update(total_steps=total_steps, tokens=tokens, seed=seed, lr=lr, grad_scale=grad_scale)
        ours, keep = _pointers(params, True, self._n, "parameters")
        theirs, also = _pointers(grads, False, self._n, "gradients")
        self._in_turn(lib.tn_optimizer_step, update, ours, theirs)
        del keep, also

    @property
    def steps(self):
        return lib.tn_optimizer_steps(self._handle)

    @property
    def state_bytes(self):
        return lib.tn_optimizer_state_bytes(self._handle)

    def save(self):
        """All states as bytes, which name plugin, version and layout."""
        pieces = []

        def write(_self, data, n):
            pieces.append(c.string_at(data, n))
            return 0

        kept = _ffi.tn_sink._fields_[-1][1](write)
        self._in_turn(lib.tn_optimizer_save, _ffi.tn_sink(write=kept))
        return b"".join(pieces)

    def load(self, states):
        states = bytes(states)
        self._in_turn(lib.tn_optimizer_load, states, len(states))


def _param_like(array):
    tensor = borrow(array).tensor
    return Param(tuple(tensor.shape[:tensor.ndim]), dtype_name(tensor.dtype))


def _empty_like(array, shape=None):
    """An uninitialised array of the caller's own library."""
    if hasattr(array, "new_empty"):
        return array.new_empty(tuple(array.shape) if shape is None else shape)
    import numpy
    return numpy.empty(array.shape if shape is None else shape, dtype=str(array.dtype))


class Quantizer(Technique):
    _what = "quantizer"

    def __init__(self, session, spec):
        super().__init__(session, _create(session, _ffi.TN_KIND_QUANTIZER, spec))

    def encode(self, array, *, name="", role="other", uid=0, seed=0):
        """Codes a float32, bfloat16 or float16 array."""
        source = borrow(array)
        t = source.tensor
        target = _ffi.tn_target(site=_ffi.TN_SITE_WEIGHT, role=role_of(role), uid=uid, block=-1, ndim=t.ndim, dtype=t.dtype, name=encode(name, "name"),
                                shape=tuple(t.shape[:t.ndim]))
        out = c.c_void_p()
        self._in_turn(lib.tn_quantizer_encode, target, t, seed, out)
        return Coded(self, out.value, array)

    def decode(self, coded, out=None, begin=0, end=None):
        """Elements [begin, end) of the flattened array; without `out` and a range, in an array like the one that was coded."""
        if not isinstance(coded, Coded):
            raise TypeError(f"what encode() answered is needed, not {type(coded).__name__}")
        if coded.quantizer is not self:
            raise error(_ffi.TN_E_ARGUMENT, "the tensor was coded by another instance; decode it with the one that coded it")
        if out is None:
            whole = begin == 0 and end is None
            out = coded._like(None if whole else ((coded.size if end is None else end) - begin,))
        end = coded.size if end is None else end
        target = borrow(out, write=True)
        self._in_turn(lib.tn_quantizer_decode, coded._handle, begin, end, target.tensor)
        return out


class Coded(Child):
    """A tensor as a quantizer holds it."""

    _what, _order = "coded tensor", 0

    def __init__(self, quantizer, address, array):
        super().__init__(quantizer.session, address)
        self.quantizer, self.shape = quantizer, tuple(array.shape)
        self.size = 1
        for n in self.shape:
            self.size *= n
        self._pattern = _empty_like(array, (0,))

    def _like(self, shape):
        return _empty_like(self._pattern, self.shape if shape is None else shape)

    @property
    def _release(self):
        return lib.tn_coded_free

    @property
    def nbytes(self):
        return lib.tn_coded_bytes(self._handle)

    def components(self):
        """[(name, shape, dtype)]"""
        found = []
        info, tensor = c.POINTER(_ffi.tn_component)(), c.POINTER(_ffi.tn_tensor)()
        while lib.tn_coded_component(self._handle, len(found), info, tensor) == _ffi.TN_OK:
            t = tensor.contents
            found.append((info.contents.name.decode(), tuple(t.shape[:t.ndim]), dtype_name(t.dtype)))
        return found

    def component(self, name):
        """The bytes of one component, such as codes or scales, as a copy."""
        names = [found for found, _, _ in self.components()]
        if name not in names:
            raise error(_ffi.TN_E_NOT_FOUND, f"there is no component {name!r}; there are {', '.join(names)}")
        info, tensor = c.POINTER(_ffi.tn_component)(), c.POINTER(_ffi.tn_tensor)()
        with self._lock:
            check(lib.tn_coded_component(self._handle, names.index(name), info, tensor))
            t = tensor.contents
            size = t.dtype.bits // 8
            for n in t.shape[:t.ndim]:
                size *= n
            out = c.create_string_buffer(max(size, 1))
            check(lib.tn_tensor_read(self.session._handle, t, out, size))
        return out.raw[:size]


class Attention(Technique):
    _what = "attention"

    def __init__(self, session, spec, heads, kv_heads, head_size, value_size, scale, softcap, layer, layers):
        self.heads, self.value_size = heads, value_size
        config = _ffi.tn_attention_config(n_heads=heads, n_kv_heads=kv_heads, d_qk=head_size, d_v=value_size, layer=layer, n_layers=layers,
                                          n_heads_global=heads, scale=scale, softcap=softcap)
        out = c.c_void_p()
        with session._lock:
            check(lib.tn_attention_create(session._handle, encode(spec, "spec"), config, out))
        super().__init__(session, out.value)

    def forward(self, q, k, v, *, window=0, out=None, lse=None):
        """Causal attention; q, k, v and out are [batch, tokens, heads, head size] of one dtype, lse (optional) float32 [batch, heads, tokens].
        window > 0: only the last `window` keys."""
        views = [borrow(a) for a in (q, k, v)]
        if out is None:
            out = _empty_like(q, (*q.shape[:3], self.value_size))
        target = borrow(out, write=True)
        statistics = None if lse is None else borrow(lse, write=True)
        self._in_turn(lib.tn_attention_forward, *(view.tensor for view in views), window, target.tensor, statistics and statistics.tensor)
        return out

    def backward(self, q, k, v, o, lse, d_o, *, window=0, out=None):
        """(dq, dk, dv) from d_o, the gradient of o = forward(q, k, v, lse=lse). `out`: three arrays like q, k and v to be written."""
        out = [_empty_like(a) for a in (q, k, v)] if out is None else out
        views = [borrow(a) for a in (q, k, v, o, lse, d_o)]
        targets = [borrow(a, write=True) for a in out]
        before, after = [v.tensor for v in views[:3]], [v.tensor for v in views[3:]]
        self._in_turn(lib.tn_attention_backward, *before, window, *after, *(t.tensor for t in targets))
        return tuple(out)
