"""Interrupts (Ctrl-C, a notebook's stop button, SIGTERM, SIGHUP) recorded for the running call instead of raised.

A KeyboardInterrupt raised at an arbitrary point, as Python does it, may be lost in a finalizer and leaves tasks behind.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from types import FrameType
from typing import Any, TypeVar

R = TypeVar("R")
#: The signals that end a process by default.
_HANGUP: int | None = getattr(signal, "SIGHUP", None)
_ENDING = (signal.SIGTERM,) if _HANGUP is None else (signal.SIGTERM, _HANGUP)
#: Seconds between two cells after which the second cannot have been queued behind the first.
IDLE = 1.0

#: Whether the run of a task has stopped sending. Checked directly before a request is sent, since the task may have
#: waited for a connection or a key until then.
sending_stopped: ContextVar[Callable[[], bool]] = ContextVar("sending_stopped", default=lambda: False)

_NO_SENDING = "The run before this one was stopped, so nothing is sent until you run a cell again."


class Interrupts:
    """The interrupts during one call, and the handler that records them."""

    def __init__(self) -> None:
        self.moments: list[float] = []  # when each came, as `time.time` returns it
        self.ending: int | None = None  # the signal that is to end the process after the call, if any
        self.handled = False  # whether the caller has been informed, so that no KeyboardInterrupt needs to be raised
        self.leaving = False  # while True, every interrupt after the first raises KeyboardInterrupt at once
        self._before: Callable[[int, FrameType | None], object] | None = None

    def __len__(self) -> int:
        return len(self.moments)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if number == self.ending == _HANGUP:
            return  # both the terminal and its shell send it
        self.ending = number if number in _ENDING else self.ending
        self.record()
        if self._before is not None and number == signal.SIGINT:
            self._before(number, frame)
        if self.leaving and len(self) > 1:
            raise KeyboardInterrupt

    def record(self) -> None:
        self.moments.append(time.time())

    @contextmanager
    def raising_after_first(self) -> Iterator[None]:
        """Let every interrupt after the first raise KeyboardInterrupt at once."""
        self.leaving = True
        try:
            yield
        finally:
            self.leaving = False

    @contextmanager
    def installed(self) -> Iterator[Interrupts]:
        interrupt, free = signal.getsignal(signal.SIGINT), _free_endings()
        if interrupt is not signal.default_int_handler:
            assert callable(interrupt)
            self._before = interrupt
        for number in (signal.SIGINT, *free):
            signal.signal(number, self)
        try:
            yield self
        finally:
            self.end(free)
            signal.signal(signal.SIGINT, interrupt)  # last, since from here on it may raise

    def end(self, free: Iterable[int]) -> None:
        """Restore the signals' defaults, and raise the one that is to end the process."""
        for number in free:
            signal.signal(number, signal.SIG_DFL)
        if self.ending is not None:
            signal.raise_signal(self.ending)


def _free_endings(*ours: object) -> list[int]:
    """The ending signals with no handler but ours, and not ignored, as nohup ignores SIGHUP."""
    return [number for number in _ENDING if signal.getsignal(number) in (signal.SIG_DFL, *ours)]


@contextmanager
def recorded_interrupts() -> Iterator[Interrupts]:
    """Record interrupts while the context is open. Nested contexts share one record.

    Another handler for Ctrl-C, such as asyncio.run's, stays in place; a kernel's, which only cancels the cell's
    coroutine, is called too.

    Raises:
        KeyboardInterrupt: at the end, for an interrupt that was not handled, such as one beside an error of the run; a
            loop over several runs might catch that error and go on.
    """
    failure: Exception | None = None
    with _recorded() as interrupts:
        try:
            yield interrupts
        except Exception as error:
            failure = error
    if interrupts.moments and not interrupts.handled:
        raise interrupt_with(getattr(failure, "partial", None)) from failure
    if failure is not None:
        raise failure


@contextmanager
def _recorded() -> Iterator[Interrupts]:
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        yield Interrupts()
    elif isinstance(handler, Interrupts):
        yield handler
    elif handler is signal.default_int_handler or getattr(handler, "__module__", "").startswith("ipykernel"):
        with Interrupts().installed() as interrupts:
            yield interrupts
    else:
        yield Interrupts()


@contextmanager
def recorded_terminations() -> Iterator[Interrupts]:
    """Record the signals that end a process for a call that is awaited, possibly among others; the process ends when
    the last of them has."""
    free = _free_endings(_record_for_awaited)
    if threading.current_thread() is not threading.main_thread() or not free:
        yield Interrupts()
        return
    for number in free:
        signal.signal(number, _record_for_awaited)
    interrupts = Interrupts()
    _awaited.append(interrupts)
    try:
        yield interrupts
    finally:
        _awaited.remove(interrupts)
        if not _awaited:
            interrupts.end(free)


_awaited: list[Interrupts] = []


def _record_for_awaited(number: int, frame: FrameType | None) -> None:
    for interrupts in _awaited:
        interrupts(number, frame)


def is_interactive() -> bool:
    """Whether this is the main thread of a notebook or an interactive shell, whose user sees the returned value."""
    return threading.current_thread() is threading.main_thread() and _has_prompt()


def _has_prompt() -> bool:
    return ipython_shell() is not None or hasattr(sys, "ps1")


def interrupt_with(partial: object) -> KeyboardInterrupt:
    """The KeyboardInterrupt for the caller of a stopped run, with the partial result."""
    stop = KeyboardInterrupt("The run was stopped. The same call resumes from there.")
    stop.partial = partial  # type: ignore[attr-defined]
    return stop


def hand_over(partial: R, interrupts: Interrupts) -> R:
    """Return what an interrupted run came to if its user sees it, and block new runs; else raise.

    Raises:
        KeyboardInterrupt: nobody looks at returned values; `.partial` is this one.
    """
    if not is_interactive():
        raise interrupt_with(partial)
    block_new_runs(interrupts)
    return partial


def block_new_runs(interrupts: Interrupts) -> None:
    """Block new runs until the user, who has stopped one, runs another cell or statement."""
    global _block
    interrupts.handled = True
    shell = ipython_shell()
    stopped_at = interrupts.moments[0] if interrupts.moments else time.time()
    if _block is not None:
        _block.end()
    _block = _Statement() if shell is None else _Cells(shell, stopped_at)


def check_not_blocked() -> None:
    """Check that a new run may begin.

    Raises:
        KeyboardInterrupt: the user stopped a run of the same cell, or of one that this cell was queued behind; or this
            is another thread and the main thread was interrupted.
    """
    if _block is not None and _block.is_active():
        raise KeyboardInterrupt(_NO_SENDING)
    if interrupt_of_main_thread() is not None:
        raise KeyboardInterrupt("The main thread was interrupted, so nothing more is sent.")


def interrupt_of_main_thread() -> KeyboardInterrupt | None:
    """The KeyboardInterrupt with which the main thread is ending, for calls in other threads, which get no signals.

    The main thread then waits for the others: at the end of `with ThreadPoolExecutor()`, of asyncio.run or of the
    script. The end of the process, which does not wait for all of them, counts as one.
    """
    main = threading.main_thread()
    if threading.current_thread() is main:
        return None
    error: Any = sys._current_exceptions().get(main.ident or 0)
    if isinstance(error, tuple):  # before Python 3.12
        error = error[1]
    if error is None and not _has_prompt():
        error = getattr(sys, "last_value", None)  # the error that ended the script
    return error if isinstance(error, KeyboardInterrupt) else _leaving


def leave_threads() -> None:
    """Stop the calls in other threads, since the process is ending."""
    global _leaving
    _leaving = KeyboardInterrupt()


def ipython_shell() -> Any:
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None


class _Cells:
    """Blocks runs until a cell begins that was not yet queued at the interrupt.

    A front end dates each request to run a cell, but its clock may be ahead of the kernel's, as after a laptop's sleep,
    and make old requests look new. A kernel that was idle for a while, however, had none in its queue.
    """

    def __init__(self, shell: Any, stopped_at: float) -> None:
        self._shell, self._stopped_at = shell, stopped_at
        self._ended_at: float | None = None  # when the previous cell ended; None while it runs
        self._over = False
        shell.events.register("post_run_cell", self._note_end)
        shell.events.register("pre_run_cell", self._check)

    def is_active(self) -> bool:
        return not self._over

    def end(self) -> None:
        if not self._over:
            self._over = True
            self._shell.events.unregister("post_run_cell", self._note_end)
            self._shell.events.unregister("pre_run_cell", self._check)

    def _note_end(self, *_: Any) -> None:
        self._ended_at = time.monotonic()

    def _check(self, *_: Any) -> None:
        if self._ended_at is not None and self._is_new(time.monotonic() - self._ended_at):
            self.end()
        self._ended_at = None

    def _is_new(self, idle: float) -> bool:
        if not hasattr(self._shell, "kernel") or idle >= IDLE:  # a terminal discards its input at Ctrl-C
            return True
        date = self._shell.get_parent().get("header", {}).get("date")
        return isinstance(date, datetime) and self._stopped_at < date.timestamp() <= time.time()


class _Statement:
    """Blocks runs until Python's own prompt has read another statement."""

    def __init__(self) -> None:
        self._frame = _statement()

    def is_active(self) -> bool:
        return self._frame is _statement()

    def end(self) -> None:
        pass


def _statement() -> FrameType | None:
    """The frame of the statement at the prompt: the outermost one in the main namespace."""
    namespace, found = sys.modules["__main__"].__dict__, None
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals is namespace:
            found = frame
        frame = frame.f_back
    return found


_block: _Cells | _Statement | None = None
_leaving: KeyboardInterrupt | None = None
