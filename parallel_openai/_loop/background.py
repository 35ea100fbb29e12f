"""An event loop in a background thread, so that the same blocking call works in a script, a cell and a thread.

Patching the notebook's loop instead halves the throughput of everything on it, is impossible with uvloop, and keeps
sending after an interrupt. `nested=True` does so all the same for callers that need their running loop.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

from parallel_openai._loop.forks import PATIENCE, at_fork, take
from parallel_openai._loop.interrupts import (
    Interrupts,
    check_not_blocked,
    interrupt_of_main_thread,
    leave_threads,
    recorded_terminations,
)
from parallel_openai.errors import InvalidInputError

T = TypeVar("T")

#: Seconds between two calls of `on_tick`, and between two checks for an interrupt.
TICK = 0.2
POLL = 0.05
#: Seconds that a stopped run waits for the answers in flight, which are billed in any case.
DRAIN_SECONDS = 10.0
#: Seconds after that for closing files; also after a second interrupt.
GRACE = 5.0

_THREAD = "parallel_openai"
_guard = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def background_loop() -> asyncio.AbstractEventLoop:
    """The process's background loop, started on first use; a forked child gets its own."""
    global _loop
    with _guard:
        if _loop is None or _loop.is_closed():
            _loop = _new_loop()
            threading.Thread(target=_run, args=(_loop,), name=_THREAD, daemon=True).start()
        return _loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt):
            continue  # raised by a task and passed to its caller; the other tasks continue
        return


def is_background_thread() -> bool:
    """Whether this is the background loop's thread, which must not wait for itself."""
    return threading.current_thread().name == _THREAD


def _give_up(loop: asyncio.AbstractEventLoop) -> None:
    """Abandon a loop that is blocked, as by a user's function; later work gets a new one."""
    global _loop
    with _guard:
        if _loop is loop:
            _loop = None


def _hold() -> None:
    """Hold the loop between two of its steps while the process forks, so that its thread holds nothing in the child."""
    take(_guard)  # first, or a loop would come to be after this
    if _loop is not None and not _loop.is_closed() and not is_background_thread():
        holding = threading.Event()
        _forked.clear()
        _loop.call_soon_threadsafe(_hold_still, holding)
        holding.wait(PATIENCE)


def _hold_still(holding: threading.Event) -> None:
    holding.set()
    _forked.wait()


def _let_go() -> None:
    _forked.set()


def _leave_to_parent() -> None:
    global _loop, _forked
    _loop, _forked = None, threading.Event()  # the lock within may be held


_forked = threading.Event()
at_fork(before=_hold, in_parent=_let_go, in_child=_leave_to_parent)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


class Interrupted(BaseException):
    """The caller stopped the work, and it has ended. Has the arguments of the CancelledError, if it was one.

    A BaseException, like other stops, so that it is not taken for a failure.
    """


class _Work(Generic[T]):
    """A coroutine on the background loop whose end, even after `cancel`, other threads can wait for."""

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self.end: Future[T] = Future()
        self.loop = background_loop()
        self._work = work
        self._task: asyncio.Task[T] | None = None
        _at_work.add(self)
        self.loop.call_soon_threadsafe(self._start)

    def cancel(self) -> None:
        """The first call ends it gently, waiting for answers in flight; the second at once."""
        self.loop.call_soon_threadsafe(self._cancel)

    def abandon(self) -> None:
        """Stop waiting for it."""
        _at_work.discard(self)
        _give_up(self.loop)

    def _start(self) -> None:
        self._task = self.loop.create_task(self._work)
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


def drain() -> None:
    """At the end of the process, wait for answers in flight of threads that it does not wait for: daemons, and before
    Python 3.13 those whose `join` was interrupted."""
    ends = [work.end for work in _at_work.copy() if work.loop is _loop]  # not those of the process this was forked from
    if ends:
        leave_threads()
        wait(ends, DRAIN_SECONDS)


class _Stops:
    """Counts whatever stops a call.

    Args:
        interrupts: records the interrupts.
        task: the task that the call blocks, if any; cancelling it, as asyncio.run does on Ctrl-C from Python 3.11 on,
            stops the call.
    """

    def __init__(self, interrupts: Interrupts, task: asyncio.Task[Any] | None = None) -> None:
        self._interrupts, self._handled = interrupts, len(interrupts)
        self._cancelling: Callable[[], int] = getattr(task, "cancelling", lambda: 0)
        self._cancellations = self._cancelling()
        self._interrupt: KeyboardInterrupt | None = None
        self._give_up_at: float | None = None

    def record(self) -> None:
        self._interrupts.record()

    def record_raised(self) -> None:
        """Record a stop that reaches the caller as its own exception, so that no KeyboardInterrupt is raised for it."""
        self._handled -= 1

    def came(self) -> bool:
        """Whether there is another stop since the last call."""
        if (cancellations := self._cancelling()) > self._cancellations:
            self._cancellations = cancellations
            self.record()
        interrupt = interrupt_of_main_thread()
        if interrupt is not None and interrupt is not self._interrupt:
            self._interrupt = interrupt
            self.record()
        if len(self._interrupts) <= self._handled:
            return False
        self._handled += 1
        allowed = GRACE if self._give_up_at is not None else DRAIN_SECONDS + GRACE
        self._give_up_at = min(self._give_up_at or math.inf, time.monotonic() + allowed)
        return True

    @property
    def any(self) -> bool:
        return self._give_up_at is not None

    def is_overdue(self) -> bool:
        return self._give_up_at is not None and time.monotonic() > self._give_up_at


def run(
    work: Coroutine[Any, Any, T], on_tick: Callable[[], None], interrupts: Interrupts, *, nested: bool = False
) -> T:
    """Run a coroutine to its end and wait for it, calling `on_tick` every `TICK` seconds in this thread.

    Args:
        work: runs on the background loop; with `nested`, on the running loop of this thread, patched to allow it.
        on_tick: updates the progress display.
        interrupts: the first interrupt stops the work gently, the second at once; other stops are recorded there.
        nested: use the running loop.

    Raises:
        Interrupted: the work was stopped and has ended.
        KeyboardInterrupt: the user stopped an earlier run, so this one does not begin.
        RuntimeError: with `nested`, the running loop is uvloop's, which cannot be patched.
    """
    _check_may_begin(work)
    stops = _Stops(interrupts, asyncio.current_task() if asyncio._get_running_loop() is not None else None)
    return (_run_nested if nested else _run_in_background)(work, on_tick, stops)


def _check_may_begin(work: Coroutine[Any, Any, Any]) -> None:
    try:
        check_not_blocked()
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
    """Await a coroutine on the background loop from another loop. A cancellation stops it and is then passed on."""
    _check_may_begin(work)
    try:
        return await _await(work, None, _Stops(Interrupts()), nested=False)
    except Interrupted as stop:
        raise asyncio.CancelledError(*stop.args) from None


async def arun(work: Coroutine[Any, Any, T], on_tick: Callable[[], None], *, nested: bool = False) -> T:
    """Like `run`, for a caller on another loop, which is not blocked.

    Raises:
        Interrupted: the task was cancelled and the work has ended. The caller must pass on the cancellation.
    """
    _check_may_begin(work)
    with recorded_terminations() as interrupts:
        return await _await(work, on_tick, _Stops(interrupts), nested=nested)


async def _await(work: Coroutine[Any, Any, T], on_tick: Callable[[], None] | None, stops: _Stops, *, nested: bool) -> T:
    background = None if nested else _Work(work)
    running = asyncio.ensure_future(work) if background is None else asyncio.wrap_future(background.end)
    cancellation = asyncio.CancelledError()
    while not running.done():
        try:
            # Without a tick there is no timeout, since thousands of calls may be waiting.
            await asyncio.wait([running], timeout=TICK if on_tick is not None or stops.any else None)
            if on_tick is not None:
                on_tick()
        except asyncio.CancelledError as error:
            if not _is_repeated(error, cancellation):
                stops.record()
            cancellation = error
        if stops.came():
            (background or running).cancel()
        if stops.is_overdue() and background is not None:
            background.abandon()
            break
    if stops.any:
        if running.done() and not running.cancelled():
            running.exception()  # retrieved, or asyncio would log it
        raise Interrupted(*cancellation.args)
    return running.result()


def _is_repeated(cancellation: asyncio.CancelledError, before: asyncio.CancelledError) -> bool:
    """Whether it comes from the same anyio cancel scope, which cancels a task on each iteration until it ends."""
    return cancellation.args == before.args and "cancel scope" in str(cancellation)


def _run_in_background(work: Coroutine[Any, Any, T], on_tick: Callable[[], None], stops: _Stops) -> T:
    running = _Work(work)
    ticked_at = time.monotonic()
    raised: BaseException | None = None
    while not running.end.done():
        try:
            wait([running.end], POLL)
            if time.monotonic() - ticked_at >= TICK:
                on_tick()
                ticked_at = time.monotonic()
        except KeyboardInterrupt:  # raised by a signal handler of the caller, like the next
            stops.record()
        except BaseException as error:
            raised = error
            stops.record_raised()
        if stops.came():
            running.cancel()
        if stops.is_overdue():
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
            f"A running {type(loop).__module__} loop cannot be patched. Leave loop= at its default, 'thread'."
        ) from error
    result: T = loop.run_until_complete(_ticking(work, on_tick, stops))
    return result


async def _ticking(work: Coroutine[Any, Any, T], on_tick: Callable[[], None], stops: _Stops) -> T:
    """Run `work` as a task, calling `on_tick` meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.wait([task], timeout=POLL)
        if stops.came():
            task.cancel()
        on_tick()
    if task.cancelled():
        raise Interrupted
    return task.result()
