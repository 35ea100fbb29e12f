"""One event loop beside the notebook's own, so that the same blocking call works in a script, a cell and a thread.

Patching the notebook's loop instead halves the throughput of everything on it, is impossible under uvloop, and goes on
sending after an interrupt. `nested=True` does it all the same for those who must stay on the loop that is running.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

T = TypeVar("T")

#: Seconds between two looks at the counters while the caller waits, and between two looks for an interrupt.
TICK = 0.2
LOOK = 0.05
#: Seconds that an interrupted run may take to close its files.
GRACE = 10.0

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


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


class Interrupted(Exception):
    """The caller interrupted the work; it has been stopped and has cleaned up."""


class _Work(Generic[T]):
    """A coroutine on the engine's loop whose end, also after a cancel, can be waited for from another thread."""

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self.end: Future[T] = Future()
        self._loop = background_loop()
        self._work = work
        self._task: asyncio.Task[T] | None = None
        self._loop.call_soon_threadsafe(self._start)

    def cancel(self) -> None:
        self._loop.call_soon_threadsafe(self._cancel)

    def _start(self) -> None:
        self._task = self._loop.create_task(self._work)
        self._task.add_done_callback(self._finish)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _finish(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.end.set_exception(Interrupted())
        elif (error := task.exception()) is not None:
            self.end.set_exception(error)
        else:
            self.end.set_result(task.result())


def run(work: Coroutine[Any, Any, T], on_tick: Callable[[], None], *, nested: bool = False) -> T:
    """Run to the end and wait for it here, calling `on_tick` now and then in this thread.

    Args:
        work: runs on the engine's loop; with `nested`, on the loop that is running in this thread, patched to allow it.
        on_tick: shows how things stand.
        nested: for the caller who must have the work on the loop that is running.

    Raises:
        Interrupted: a KeyboardInterrupt came; the work was cancelled and has ended.
        RuntimeError: `nested`, and the running loop is uvloop's, which cannot be patched.
    """
    with noted_interrupts() as interrupts:
        on_tick = _heeding(on_tick, interrupts)
        return _run_nested(work, on_tick) if nested else _run_in_background(work, on_tick)


async def in_background(work: Coroutine[Any, Any, T]) -> T:
    """Await work on the engine's loop from another one. A cancellation ends the work, and goes on then."""
    background = _Work(work)
    running = asyncio.wrap_future(background.end)
    try:
        await asyncio.wait([running])
    except asyncio.CancelledError:
        background.cancel()
        await _await_stubbornly(running)
        raise
    return running.result()


async def arun(work: Coroutine[Any, Any, T], on_tick: Callable[[], None], *, nested: bool = False) -> T:
    """As `run` for a caller that has a loop of its own, which stays free meanwhile.

    Raises:
        Interrupted: the caller's task was cancelled; the work was cancelled and has ended, and the cancellation is
            taken back, so that the caller can return what there is.
    """
    running: asyncio.Future[T]
    if nested:
        running = asyncio.ensure_future(work)
        cancel: Callable[[], object] = running.cancel
    else:
        background = _Work(work)
        running, cancel = asyncio.wrap_future(background.end), background.cancel
    try:
        while not running.done():
            await asyncio.wait([running], timeout=TICK)
            on_tick()
    except asyncio.CancelledError:
        cancel()
        await _await_stubbornly(running)
        _take_back_cancellation()
        raise Interrupted from None
    return running.result()


def _run_in_background(work: Coroutine[Any, Any, T], on_tick: Callable[[], None]) -> T:
    running = _Work(work)
    try:
        while not wait([running.end], LOOK).done:
            on_tick()
    except BaseException as error:
        running.cancel()
        _wait_stubbornly(running.end)
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted from None
        raise
    return running.end.result()


def _wait_stubbornly(end: Future[Any]) -> None:
    """Wait for the clean end; further interrupts in the meantime must not leave files open."""
    give_up_at = time.monotonic() + GRACE
    while not end.done() and time.monotonic() < give_up_at:
        try:
            wait([end], TICK)
        except KeyboardInterrupt:
            continue


async def _await_stubbornly(end: asyncio.Future[Any]) -> None:
    while not end.done():
        try:
            await asyncio.wait([end], timeout=GRACE)
        except asyncio.CancelledError:
            continue
    if not end.cancelled():
        end.exception()  # looked at, so that asyncio does not complain of it


class _Noted(list[int]):
    """A signal's handler that keeps the signals that came."""

    def __call__(self, number: int, frame: object) -> None:
        self.append(number)


@contextmanager
def noted_interrupts() -> Iterator[list[int]]:
    """Ctrl-C and the stop button as a note for the next tick, where Python would raise KeyboardInterrupt anywhere.

    Raised in a finaliser it is lost, and in the loop's own machinery it leaves tasks behind. Whoever has set a handler
    of his own, as asyncio.run does, keeps it. One within another is the same one.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        yield []
    elif isinstance(handler, _Noted):
        yield handler
    elif handler is not signal.default_int_handler:
        yield []
    else:
        came = _Noted()
        signal.signal(signal.SIGINT, came)
        try:
            yield came
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _heeding(tick: Callable[[], None], interrupts: list[int]) -> Callable[[], None]:
    """A tick that also ends a blocking call when an interrupt came, or when the task that it blocks is cancelled.

    asyncio.run turns Ctrl-C into the latter (from Python 3.11 on).
    """

    ticked_at = time.monotonic()

    def heed() -> None:
        nonlocal ticked_at
        if interrupts:
            raise KeyboardInterrupt
        if time.monotonic() - ticked_at >= TICK:
            tick()
            ticked_at = time.monotonic()

    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop runs here
        return heed
    cancelling = getattr(task, "cancelling", lambda: 0)

    def heeding() -> None:
        if cancelling():
            raise KeyboardInterrupt
        heed()

    return heeding


def _take_back_cancellation() -> None:
    task = asyncio.current_task()
    uncancel = getattr(task, "uncancel", None)  # from Python 3.11 on
    while uncancel is not None and task is not None and task.cancelling():  # type: ignore[attr-defined,unused-ignore]
        uncancel()


def _run_nested(work: Coroutine[Any, Any, T], on_tick: Callable[[], None]) -> T:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_ticking(work, on_tick, []))
    import nest_asyncio

    try:
        nest_asyncio.apply(loop)
    except ValueError as error:
        work.close()
        raise RuntimeError(
            f"A running {type(loop).__module__} loop cannot be entered again. Leave loop= at its default, 'thread'."
        ) from error
    started: list[asyncio.Future[T]] = []
    try:
        return loop.run_until_complete(_ticking(work, on_tick, started))
    except KeyboardInterrupt:  # pragma: no cover - nest_asyncio patches the process, so its tests have their own
        # It went through the loop's own machinery, past our tasks, which would go on sending.
        for task in started:
            task.cancel()
            loop.run_until_complete(_await_stubbornly(task))
        raise Interrupted from None


async def _ticking(work: Coroutine[Any, Any, T], on_tick: Callable[[], None], started: list[asyncio.Future[T]]) -> T:
    """Run as a task of its own, which is put into `started`, and tick meanwhile."""
    task = asyncio.ensure_future(work)
    started.append(task)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=LOOK)
            on_tick()
    except (asyncio.CancelledError, KeyboardInterrupt):
        task.cancel()
        await _await_stubbornly(task)
        raise Interrupted from None
    return task.result()
