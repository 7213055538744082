"""Whole training sessions from a recipe."""
import contextlib
import ctypes as c
import dataclasses
import json
import signal
import threading

from . import _ffi
from ._library import encode, error, take, texts, trainer_lib
from .context import Handle


def _check(status):
    if status < 0:
        raise error(status, trainer_lib.tn_trainer_last_error().decode())


@contextlib.contextmanager
def stopped_by_interrupt(stop, failures):
    """Ctrl-C calls stop() and is noted as a failure: Python's own handler raises wherever it is, and what is raised on the way into a callback from
    C is lost. A program that has a handler of its own keeps it; so does every thread but the main one."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def interrupted(_signal, _frame):
        failures.append(KeyboardInterrupt())
        stop()

    signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def recipe_keys():
    """[{"name", "default", "switch", "repeats", "doc"}]: what a recipe may say."""
    out = c.c_void_p()
    _check(trainer_lib.tn_trainer_recipe_keys(out))
    return json.loads(take(out, trainer_lib.tn_trainer_free_string))


@dataclasses.dataclass(frozen=True)
class Step:
    """One optimizer step that is done."""

    step: int
    total_steps: int
    tokens: int
    loss: float
    lr: float
    grad_norm: float
    tokens_per_second: float
    live_bytes: int
    peak_bytes: int
    skipped: bool
    degraded: bool


class Trainer(Handle):
    """A recipe, checked: a dict of the flags of `tenon train` without dashes, for example
    {"model": "preset:9m", "data": "book.txt", "output": "out", "optimizer": "galore:rank=64", "steps": 100}."""

    _what = "trainer"

    def __init__(self, recipe, *stores):
        out = c.c_void_p()
        array, n = texts(stores, "stores")
        text = recipe if isinstance(recipe, str) else json.dumps(recipe)
        _check(trainer_lib.tn_trainer_create(array, n, encode(text, "recipe"), out))
        super().__init__(out.value, threading.Lock())

    def close(self):
        if not self.closed and not self._lock.acquire(blocking=False):
            raise error(_ffi.TN_E_STATE, "the trainer is running; stop it and wait before closing it")
        elif not self.closed:
            self._lock.release()
        super().close()

    def _free(self, address):
        trainer_lib.tn_trainer_destroy(address)

    def _call(self, function, *arguments):
        if not self._lock.acquire(blocking=False):
            raise error(_ffi.TN_E_STATE, "this trainer is in a call already; wait for it, or make another trainer")
        try:
            out = c.c_void_p()
            _check(function(self._handle, *arguments, out))
            return json.loads(take(out, trainer_lib.tn_trainer_free_string))
        finally:
            self._lock.release()

    def plan(self):
        """Bytes by category before the run, whether they fit "memory-limit", and what would fit."""
        return self._call(trainer_lib.tn_trainer_plan)

    def run(self, on_step=None, on_evaluated=None, on_note=None):
        """Trains to the end or until stopped. on_step(Step) ends the run, with a checkpoint, by answering False or raising; what a callback
        raises is raised here. on_evaluated(step, loss, perplexity), on_note(sentence). Ctrl-C too ends the run after its step, and is
        raised then."""
        failures = []

        def guarded(function, *arguments):
            try:
                return function(*arguments)
            except BaseException as e:  # nothing may be thrown through C
                failures.append(e)
                self.stop()
                return False

        def step(_self, pointer):
            s = pointer.contents
            told = Step(s.step, s.total_steps, s.tokens, s.loss, s.lr, s.grad_norm, s.tokens_per_second, s.live_bytes, s.peak_bytes,
                        bool(s.flags & _ffi.TN_TRAINER_SKIPPED), bool(s.flags & _ffi.TN_TRAINER_DEGRADED))
            return int(on_step is not None and guarded(on_step, told) is False)

        kinds = dict(_ffi.tn_trainer_events._fields_)
        events = _ffi.tn_trainer_events(
            step=kinds["step"](step),  # in any case: Python looks at signals when it is called
            evaluated=kinds["evaluated"](lambda _s, *point: guarded(on_evaluated, *point) and None) if on_evaluated else kinds["evaluated"](),
            note=kinds["note"](lambda _s, text: guarded(on_note, text.decode()) and None) if on_note else kinds["note"]())
        with stopped_by_interrupt(self.stop, failures):
            result = self._call(trainer_lib.tn_trainer_run, events)
        if failures:
            raise failures[0]
        return result

    def stop(self):
        """Ends the run in progress, or the next one, after the step that it is in. From any thread."""
        trainer_lib.tn_trainer_stop(self._handle)
