"""Makes forking safe while runs are under way.

A forked child has only the thread that forked. A lock, or the import lock of a module, that another thread held at that
moment stays locked in the child forever. So a fork waits until no thread of ours holds one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

#: Seconds that a fork waits at most, since an import is slow on a busy machine. After that the process forks all the
#: same, for instance if a caller's function blocks the loop.
PATIENCE = 30.0

_one_at_a_time = threading.Lock()
_before: list[Callable[[], object]] = []
_in_parent: list[Callable[[], object]] = []
_in_child: list[Callable[[], object]] = []
_locks: list[threading.Lock] = []
_held: list[threading.Lock] = []


def at_fork(
    *,
    before: Callable[[], object] = bool,
    in_parent: Callable[[], object] = bool,
    in_child: Callable[[], object] = bool,
) -> None:
    """Register functions to call before the process forks, and after it in the parent and in the child."""
    _before.append(before)
    _in_parent.append(in_parent)
    _in_child.append(in_child)


def fork_safe_lock() -> threading.Lock:
    """A lock that no other thread holds while the process forks. Its holder must not wait for the background loop."""
    lock = threading.Lock()
    _locks.append(lock)
    return lock


def take(lock: threading.Lock) -> None:
    """Hold a lock until the fork is over."""
    if lock.acquire(timeout=PATIENCE):
        _held.append(lock)


def _begin() -> None:
    take(_one_at_a_time)
    for each in _before:
        each()
    for lock in _locks:  # now that the loop stands still, which may want them itself
        take(lock)


def _end(then: list[Callable[[], object]]) -> None:
    for each in then:
        each()
    while _held:
        _held.pop().release()


if hasattr(os, "register_at_fork"):  # Windows cannot fork
    os.register_at_fork(before=_begin, after_in_parent=lambda: _end(_in_parent), after_in_child=lambda: _end(_in_child))
