"""Stops: Ctrl-C, a notebook's stop button, SIGTERM and the end of the terminal, noted for whoever is at work.

Raised anywhere, as Python does it, a KeyboardInterrupt is lost in a finaliser and leaves tasks behind in a loop.
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
from typing import Any

#: The signals that end a process which has no handler for them.
_HANGUP: int | None = getattr(signal, "SIGHUP", None)
_ENDING = (signal.SIGTERM,) if _HANGUP is None else (signal.SIGTERM, _HANGUP)
#: Seconds between two cells after which nobody can have queued the second one behind the first.
IDLE = 1.0

#: Whether the run that a task works for sends nothing more. It is asked right before a request goes onto the wire:
#: a connection or a key may have been waited for until then.
sends_no_more: ContextVar[Callable[[], bool]] = ContextVar("sends_no_more", default=lambda: False)

_NO_SENDING = "The run before this one was stopped, so nothing is sent until you run a cell again."


class Presses:
    """The stops that came while one call is at work.

    Attributes:
        moments: when each came, as `time.time` tells it.
        ending: the signal among them that then ends the process, if one did not come from a key.
        heeded: whether the caller need not be told of them by KeyboardInterrupt.
        leaving: while True, a further press after the first raises KeyboardInterrupt at once.
    """

    def __init__(self) -> None:
        self.moments: list[float] = []
        self.ending: int | None = None
        self.heeded = False
        self.leaving = False
        self._before: Callable[[int, FrameType | None], object] | None = None

    def __len__(self) -> int:
        return len(self.moments)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signals' handler."""
        if number == self.ending == _HANGUP:
            return  # the terminal tells it, and its shell too
        self.ending = number if number in _ENDING else self.ending
        self.note()
        if self._before is not None and number == signal.SIGINT:
            self._before(number, frame)
        if self.leaving and len(self) > 1:
            raise KeyboardInterrupt

    def note(self) -> None:
        self.moments.append(time.time())

    @contextmanager
    def left_at_once(self) -> Iterator[None]:
        """For work that no press but a first one waits for."""
        self.leaving = True
        try:
            yield
        finally:
            self.leaving = False

    @contextmanager
    def installed(self) -> Iterator[Presses]:
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
            signal.signal(signal.SIGINT, interrupt)  # last: from here on it may raise

    def end(self, free: Iterable[int]) -> None:
        """Leave the signals to themselves again, and let the one end the process that asked for it."""
        for number in free:
            signal.signal(number, signal.SIG_DFL)
        if self.ending is not None:
            signal.raise_signal(self.ending)


def _free_endings(*ours: object) -> list[int]:
    """The ending signals that nobody but us has a handler for, or told the process to ignore, as nohup does."""
    return [number for number in _ENDING if signal.getsignal(number) in (signal.SIG_DFL, *ours)]


@contextmanager
def noted_interrupts() -> Iterator[Presses]:
    """Ctrl-C, the stop button and what ends a process as notes. One within another is the same one.

    Whoever has set a handler of his own for Ctrl-C, as asyncio.run does, keeps it; a kernel's, which only cancels the
    cell's coroutine, is called too.

    Raises:
        KeyboardInterrupt: one came that nobody has told the caller of, as one beside an error of the run's own, which
            a loop over several runs may take for that run's alone.
    """
    failure: Exception | None = None
    with _noted() as presses:
        try:
            yield presses
        except Exception as error:
            failure = error
    if presses.moments and not presses.heeded:
        raise interrupt_with(getattr(failure, "partial", None)) from failure
    if failure is not None:
        raise failure


@contextmanager
def _noted() -> Iterator[Presses]:
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        yield Presses()
    elif isinstance(handler, Presses):
        yield handler
    elif handler is signal.default_int_handler or getattr(handler, "__module__", "").startswith("ipykernel"):
        with Presses().installed() as presses:
            yield presses
    else:
        yield Presses()


@contextmanager
def noted_terminations() -> Iterator[Presses]:
    """The signals that end a process as notes for a call that is awaited, beside others of its kind; when the last of
    them has ended, so does the process."""
    free = _free_endings(_tell_awaited)
    if threading.current_thread() is not threading.main_thread() or not free:
        yield Presses()
        return
    for number in free:
        signal.signal(number, _tell_awaited)
    presses = Presses()
    _awaited.append(presses)
    try:
        yield presses
    finally:
        _awaited.remove(presses)
        if not _awaited:
            presses.end(free)


_awaited: list[Presses] = []


def _tell_awaited(number: int, frame: FrameType | None) -> None:
    for presses in _awaited:
        presses(number, frame)


def is_interactive() -> bool:
    """Whether a person sits before a notebook or a shell, who sees what comes back, as of no other thread."""
    return threading.current_thread() is threading.main_thread() and _has_prompt()


def _has_prompt() -> bool:
    return _shell() is not None or hasattr(sys, "ps1")


def interrupt_with(partial: object) -> KeyboardInterrupt:
    """What goes on to the caller of a run that was stopped, with what was finished."""
    stop = KeyboardInterrupt("The run was stopped. The same call goes on from there.")
    stop.partial = partial  # type: ignore[attr-defined]
    return stop


def hold_back(presses: Presses) -> None:
    """Let no run begin until the person who has stopped one runs something again."""
    global _held
    presses.heeded = True
    shell = _shell()
    stopped_at = presses.moments[0] if presses.moments else time.time()
    if _held is not None:
        _held.end()
    _held = _Statement() if shell is None else _Cells(shell, stopped_at)


def check_held() -> None:
    """See that the person did not stop a run of the same cell, or one that this cell was queued behind, or the main
    thread while this one is another.

    Raises:
        KeyboardInterrupt: it is so.
    """
    if _held is not None and _held.lasts():
        raise KeyboardInterrupt(_NO_SENDING)
    if interrupt_of_main_thread() is not None:
        raise KeyboardInterrupt("The main thread was interrupted, so nothing more is sent.")


def interrupt_of_main_thread() -> KeyboardInterrupt | None:
    """The Ctrl-C that the main thread is ending with, for a call in another thread, which no signal reaches.

    Meanwhile it waits for its threads: at the end of `with ThreadPoolExecutor()`, of asyncio.run or of the script. The
    end of the process, which does not wait for all of them, is one too.
    """
    main = threading.main_thread()
    if threading.current_thread() is main:
        return None
    error: Any = sys._current_exceptions().get(main.ident or 0)
    if isinstance(error, tuple):  # before Python 3.12
        error = error[1]
    if error is None and not _has_prompt():
        error = getattr(sys, "last_value", None)  # what the script has ended with
    return error if isinstance(error, KeyboardInterrupt) else _leaving


def leave_threads() -> None:
    """Stop the calls in other threads, since the process ends."""
    global _leaving
    _leaving = KeyboardInterrupt()


def _shell() -> Any:
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None


class _Cells:
    """Holds until a cell begins that was not yet queued when the stop came.

    A kernel's front end dates each request to run a cell. A clock that goes ahead of the kernel's, as after a laptop's
    sleep, would make old requests look new; but a kernel that was idle for a while had none in its queue.
    """

    def __init__(self, shell: Any, stopped_at: float) -> None:
        self._shell, self._stopped_at = shell, stopped_at
        self._ended_at: float | None = None  # when the cell before ended; None while it runs
        self._over = False
        shell.events.register("post_run_cell", self._note_end)
        shell.events.register("pre_run_cell", self._look)

    def lasts(self) -> bool:
        return not self._over

    def end(self) -> None:
        if not self._over:
            self._over = True
            self._shell.events.unregister("post_run_cell", self._note_end)
            self._shell.events.unregister("pre_run_cell", self._look)

    def _note_end(self, *_: Any) -> None:
        self._ended_at = time.monotonic()

    def _look(self, *_: Any) -> None:
        if self._ended_at is not None and self._is_new(time.monotonic() - self._ended_at):
            self.end()
        self._ended_at = None

    def _is_new(self, idle: float) -> bool:
        if not hasattr(self._shell, "kernel") or idle >= IDLE:  # a terminal forgets at Ctrl-C what was typed ahead
            return True
        date = self._shell.get_parent().get("header", {}).get("date")
        return isinstance(date, datetime) and self._stopped_at < date.timestamp() <= time.time()


class _Statement:
    """Holds until Python's own prompt has read another statement."""

    def __init__(self) -> None:
        self._frame = _statement()

    def lasts(self) -> bool:
        return self._frame is _statement()

    def end(self) -> None:
        pass


def _statement() -> FrameType | None:
    """The frame of what was typed at the prompt: of those that run in its namespace, the outermost."""
    namespace, found = sys.modules["__main__"].__dict__, None
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals is namespace:
            found = frame
        frame = frame.f_back
    return found


_held: _Cells | _Statement | None = None
_leaving: KeyboardInterrupt | None = None
