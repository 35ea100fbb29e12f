"""A fork takes no thread along but its own: what the others hold at that moment, a lock or the import of a module, is
held in the child for ever. So a fork waits until nothing of ours is held."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

#: Seconds that a fork waits, since an import takes long on a busy machine. After that it comes as it would without us,
#: as when somebody's function keeps the loop.
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
    """Call these before the process forks, and after it."""
    _before.append(before)
    _in_parent.append(in_parent)
    _in_child.append(in_child)


def free_in_forks() -> threading.Lock:
    """A lock that no other thread holds while the process forks. Who has it must not wait for the background loop."""
    lock = threading.Lock()
    _locks.append(lock)
    return lock


def take(lock: threading.Lock) -> None:
    """Hold it until the fork is over."""
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
