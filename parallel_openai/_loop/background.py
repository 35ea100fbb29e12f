"""One event loop beside the notebook's own, so that the same blocking call works in a script, a cell and a thread.

Patching the notebook's loop instead halves the throughput of everything on it, is impossible under uvloop, and goes on
sending after an interrupt. `nested=True` does it all the same for those who must stay on the loop that is running.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

from parallel_openai._loop.interrupts import (
    Presses,
    check_held,
    interrupt_of_main_thread,
    leave_threads,
    noted_terminations,
)
from parallel_openai.errors import InvalidInputError

T = TypeVar("T")

#: Seconds between two looks at the counters while the caller waits, and between two looks for an interrupt.
TICK = 0.2
LOOK = 0.05
#: Seconds that a stopped run waits for the answers that are on their way, since they are paid for.
COME_HOME = 10.0
#: Seconds after that in which it closes its files, and which a second stop leaves it.
GRACE = 5.0

_THREAD = "parallel_openai"
_guard = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_owner = 0


def background_loop() -> asyncio.AbstractEventLoop:
    """The process's engine loop, started at its first use; a forked child gets one of its own."""
    global _loop, _owner
    with _guard:
        if _loop is None or _owner != os.getpid() or _loop.is_closed():
            _loop, _owner = _new_loop(), os.getpid()
            threading.Thread(target=_run, args=(_loop,), name=_THREAD, daemon=True).start()
        return _loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt):
            continue  # a task raised it, whose caller will get it; the others go on
        return


def is_background_thread() -> bool:
    """Whether this is the thread of the engine's loop, which must not wait for itself."""
    return threading.current_thread().name == _THREAD


def _give_up(loop: asyncio.AbstractEventLoop) -> None:
    """Leave a loop alone that does not come back, as from somebody's function; later work gets another one."""
    global _loop
    with _guard:
        if _loop is loop:
            _loop = None


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


class Interrupted(BaseException):
    """The caller stopped the work, which has ended; with the arguments of a task's cancellation, if it was one.

    As with other stops, nobody is to take it for a failure.
    """


class _Work(Generic[T]):
    """A coroutine on the engine's loop whose end, also after a cancel, can be waited for from another thread."""

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self.end: Future[T] = Future()
        self._loop = background_loop()
        self._work = work
        self._task: asyncio.Task[T] | None = None
        _at_work.add(self)
        self._loop.call_soon_threadsafe(self._start)

    def cancel(self) -> None:
        """The first time it ends gently, and takes in what is on its way; the second time at once."""
        self._loop.call_soon_threadsafe(self._cancel)

    def abandon(self) -> None:
        """Wait for it no more."""
        _at_work.discard(self)
        _give_up(self._loop)

    def _start(self) -> None:
        self._task = self._loop.create_task(self._work)
        self._task.add_done_callback(self._finish)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _finish(self, task: asyncio.Task[T]) -> None:
        _at_work.discard(self)
        if task.cancelled():
            self.end.set_exception(Interrupted())
        elif (error := task.exception()) is not None:
            self.end.set_exception(error)
        else:
            self.end.set_result(task.result())


_at_work: set[_Work[Any]] = set()


def come_home() -> None:
    """Before the process ends, take in what is on its way for threads that it does not wait for: daemons, and before
    Python 3.13 those whose `join` was interrupted."""
    if _at_work and _owner == os.getpid():
        leave_threads()
        wait([work.end for work in _at_work.copy()], COME_HOME)


class _Stops:
    """What stops a call, counted.

    Args:
        presses: where they are noted.
        task: one that the call blocks; a new cancellation of it stops the call, as asyncio.run makes one of Ctrl-C
            (from Python 3.11 on).
    """

    def __init__(self, presses: Presses, task: asyncio.Task[Any] | None = None) -> None:
        self._presses, self._heeded = presses, len(presses)
        self._cancelling: Callable[[], int] = getattr(task, "cancelling", lambda: 0)
        self._cancellations = self._cancelling()
        self._interrupt: KeyboardInterrupt | None = None
        self._give_up_at: float | None = None

    def note(self) -> None:
        self._presses.note()

    def came(self) -> bool:
        """Whether there is one more since this was asked last."""
        if (cancellations := self._cancelling()) > self._cancellations:
            self._cancellations = cancellations
            self.note()
        interrupt = interrupt_of_main_thread()
        if interrupt is not None and interrupt is not self._interrupt:
            self._interrupt = interrupt
            self.note()
        if len(self._presses) <= self._heeded:
            return False
        self._heeded += 1
        patience = GRACE if self._give_up_at is not None else COME_HOME + GRACE
        self._give_up_at = min(self._give_up_at or math.inf, time.monotonic() + patience)
        return True

    @property
    def any(self) -> bool:
        return self._give_up_at is not None

    def waited_enough(self) -> bool:
        return self._give_up_at is not None and time.monotonic() > self._give_up_at


def run(work: Coroutine[Any, Any, T], on_tick: Callable[[], None], presses: Presses, *, nested: bool = False) -> T:
    """Run to the end and wait for it here, calling `on_tick` now and then in this thread.

    Args:
        work: runs on the engine's loop; with `nested`, on the loop that is running in this thread, patched to allow it.
        on_tick: shows how things stand.
        presses: the first one stops the work gently, a second one at once; other stops are noted there too.
        nested: for the caller who must have the work on the loop that is running.

    Raises:
        Interrupted: it was stopped, and has ended.
        KeyboardInterrupt: the person has stopped a run before, and it is not to begin.
        InvalidInputError: the engine's own thread calls, which cannot wait for itself.
        RuntimeError: `nested`, and the running loop is uvloop's, which cannot be patched.
    """
    _check_may_begin(work)
    stops = _Stops(presses, asyncio.current_task() if asyncio._get_running_loop() is not None else None)
    return (_run_nested if nested else _run_in_background)(work, on_tick, stops)


def _check_may_begin(work: Coroutine[Any, Any, Any]) -> None:
    try:
        check_held()
        if is_background_thread():
            raise InvalidInputError(
                "A prompt function, a parse function or a validator called parallel_openai again, in the middle of a "
                "run, which cannot wait for a run within it. Run the inner call first, on the whole frame, and use "
                "its columns."
            )
    except BaseException:
        work.close()
        raise


async def in_background(work: Coroutine[Any, Any, T]) -> T:
    """Await work on the engine's loop from another one. A cancellation ends the work, and goes on then."""
    _check_may_begin(work)
    try:
        return await _await(work, None, _Stops(Presses()), nested=False)
    except Interrupted as stop:
        raise asyncio.CancelledError(*stop.args) from None


async def arun(work: Coroutine[Any, Any, T], on_tick: Callable[[], None], *, nested: bool = False) -> T:
    """As `run` for a caller that has a loop of its own, which stays free meanwhile.

    Raises:
        Interrupted: the caller's task was cancelled and the work has ended. The caller says what there is to say, and
            lets the cancellation go on.
    """
    _check_may_begin(work)
    with noted_terminations() as presses:
        return await _await(work, on_tick, _Stops(presses), nested=nested)


async def _await(work: Coroutine[Any, Any, T], on_tick: Callable[[], None] | None, stops: _Stops, *, nested: bool) -> T:
    background = None if nested else _Work(work)
    running = asyncio.ensure_future(work) if background is None else asyncio.wrap_future(background.end)
    cancellation = asyncio.CancelledError()
    while not running.done():
        try:
            # Thousands may wait without a tick, and must cost nothing.
            await asyncio.wait([running], timeout=TICK if on_tick is not None or stops.any else None)
            if on_tick is not None:
                on_tick()
        except asyncio.CancelledError as error:
            if not _is_said_again(error, cancellation):
                stops.note()
            cancellation = error
        if stops.came():
            (background or running).cancel()
        if stops.waited_enough() and background is not None:
            background.abandon()
            break
    if stops.any:
        if running.done() and not running.cancelled():
            running.exception()  # looked at, so that asyncio does not complain of it
        raise Interrupted(*cancellation.args)
    return running.result()


def _is_said_again(cancellation: asyncio.CancelledError, before: asyncio.CancelledError) -> bool:
    """Whether it comes from the same cancel scope of anyio, which cancels a task at each turn of the loop until it
    ends."""
    return cancellation.args == before.args and "cancel scope" in str(cancellation)


def _run_in_background(work: Coroutine[Any, Any, T], on_tick: Callable[[], None], stops: _Stops) -> T:
    running = _Work(work)
    ticked_at = time.monotonic()
    raised: BaseException | None = None
    while not running.end.done():
        try:
            wait([running.end], LOOK)
            if time.monotonic() - ticked_at >= TICK:
                on_tick()
                ticked_at = time.monotonic()
        except BaseException as error:  # out of a handler of the caller's own
            raised = None if isinstance(error, KeyboardInterrupt) else error
            stops.note()
        if stops.came():
            running.cancel()
        if stops.waited_enough():
            running.abandon()
            raise raised or Interrupted
    if raised is not None:
        raise raised
    return running.end.result()


def _run_nested(work: Coroutine[Any, Any, T], on_tick: Callable[[], None], stops: _Stops) -> T:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_ticking(work, on_tick, stops))
    import nest_asyncio

    try:
        nest_asyncio.apply(loop)
    except ValueError as error:
        work.close()
        raise RuntimeError(
            f"A running {type(loop).__module__} loop cannot be entered again. Leave loop= at its default, 'thread'."
        ) from error
    result: T = loop.run_until_complete(_ticking(work, on_tick, stops))
    return result


async def _ticking(work: Coroutine[Any, Any, T], on_tick: Callable[[], None], stops: _Stops) -> T:
    """Run as a task of its own, and tick meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.wait([task], timeout=LOOK)
        if stops.came():
            task.cancel()
        on_tick()
    if task.cancelled():
        raise Interrupted
    return task.result()
