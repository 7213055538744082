"""Loading libtenon and libtenon_trainer, and their errors as exceptions."""
import ctypes as c
import os
import pathlib

from . import _ffi


class TenonError(Exception):
    """What the library refused or failed at. `status` is the code, `name` its name; the text is one sentence with the fix."""

    status = 0

    @property
    def name(self):
        return lib.tn_status_name(self.status).decode()


class ArgumentError(TenonError, ValueError):
    status = _ffi.TN_E_ARGUMENT


class VersionError(TenonError):
    status = _ffi.TN_E_VERSION


class UnsupportedError(TenonError):
    status = _ffi.TN_E_UNSUPPORTED


class OutOfMemoryError(TenonError, MemoryError):
    status = _ffi.TN_E_MEMORY


class DeviceError(TenonError):
    status = _ffi.TN_E_DEVICE


class IOFailure(TenonError, OSError):
    status = _ffi.TN_E_IO


class FormatError(TenonError, ValueError):
    status = _ffi.TN_E_FORMAT


class NotFoundError(TenonError, LookupError):
    status = _ffi.TN_E_NOT_FOUND


class ConflictError(TenonError):
    status = _ffi.TN_E_CONFLICT


class NumericError(TenonError, ArithmeticError):
    status = _ffi.TN_E_NUMERIC


class StateError(TenonError, RuntimeError):
    status = _ffi.TN_E_STATE


class TrustError(TenonError):
    status = _ffi.TN_E_TRUST


class CancelledError(TenonError):
    status = _ffi.TN_E_CANCELLED


class InternalError(TenonError):
    status = _ffi.TN_E_INTERNAL


_BY_STATUS = {e.status: e for e in TenonError.__subclasses__()}


class _Library:
    """The functions of one shared library, declared as the headers declare them."""

    def __init__(self, name):
        self._path = _find(name)
        handle = c.CDLL(self._path)
        for function, (result, arguments) in _ffi.FUNCTIONS[name].items():
            declared = getattr(handle, function)
            declared.restype, declared.argtypes = result, arguments
            setattr(self, function, declared)


def _find(name):
    """$TENON_LIBRARY_PATH, then a folder `lib` in this package, then wherever the system looks."""
    file = f"lib{name}.so.0"
    folders = [os.environ["TENON_LIBRARY_PATH"]] if os.environ.get("TENON_LIBRARY_PATH") else []
    for folder in [*folders, pathlib.Path(__file__).parent / "lib"]:
        if os.path.exists(os.path.join(folder, file)):
            return os.path.join(folder, file)
    return file


class _Lazy:
    """Loads its library at the first use, so that importing the package never fails."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, function):
        try:
            library = _Library(self._name)
        except OSError as e:
            raise ImportError(f"lib{self._name}.so.0 was not found; install Tenon or set TENON_LIBRARY_PATH to the folder that holds it ({e})") from e
        self.__dict__.update({k: v for k, v in library.__dict__.items() if not k.startswith("_")})
        return getattr(library, function)


lib = _Lazy("tenon")
trainer_lib = _Lazy("tenon_trainer")


def error(status, sentence):
    kind = _BY_STATUS.get(status, TenonError)
    made = kind(sentence)
    made.status = status
    return made


def check(status):
    if status < 0:
        raise error(status, lib.tn_last_error().decode() or lib.tn_status_message(status).decode())


def take(text, free=None):
    """The str of a char* that the library gave away."""
    try:
        return c.string_at(text).decode()
    finally:
        (free or lib.tn_free_string)(text)


def encode(text, what):
    """UTF-8 for the library, which ends texts at the first NUL."""
    if not isinstance(text, (str, os.PathLike)):
        raise TypeError(f"{what} is a str, not {type(text).__name__}")
    data = os.fspath(text).encode()
    if b"\0" in data:
        raise error(_ffi.TN_E_ARGUMENT, f"{what} contains a NUL character")
    return data


def texts(values, what):
    """A C array of texts, and how many."""
    if isinstance(values, (str, bytes)):
        raise TypeError(f"{what} are a list of str, not one str")
    coded = [encode(v, what) for v in values]
    return (c.c_char_p * max(len(coded), 1))(*coded), len(coded)


def version():
    return lib.tn_version().decode()


def abi_version():
    major, minor = c.c_uint32(), c.c_uint32()
    lib.tn_abi_version(major, minor)
    return major.value, minor.value


_log = None


def set_log(function):
    """function(level, sentence) gets every line that plugins log (levels: 1 debug, 2 info, 3 warning); None: nobody does."""
    global _log
    kind = _ffi.FUNCTIONS["tenon"]["tn_set_log"][1][0]
    kept = kind(lambda _self, level, sentence: function(level, sentence.decode("utf-8", "replace"))) if function else kind()
    lib.tn_set_log(kept, None)
    _log = kept  # after the library has let go of the one before
