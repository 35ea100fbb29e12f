"""Copies a caller's arguments, so that nobody can change them during a run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pandas as pd

P = ParamSpec("P")
R = TypeVar("R")

#: Before pandas 3, a shallow copy of a frame shares its cells with it, so that a change of one shows in the other.
_CELLS_ARE_SHARED = int(pd.__version__.partition(".")[0]) < 3


def on_copies(function: Callable[P, R]) -> Callable[P, R]:
    """The function, called with copies of its arguments."""

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        args, kwargs = own_copies(args, kwargs)  # type: ignore[assignment]
        return function(*args, **kwargs)

    return called


def own_copies(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(map(own_copy, args)), {name: own_copy(value) for name, value in kwargs.items()}


def own_copy(value: Any) -> Any:
    """A copy of a frame, an array or a container with all containers in it; anything else as it is.

    With pandas 3 a copied frame shares its memory until either is written to.

    >>> given = {"stop": ["END"]}
    >>> taken = own_copy(given)
    >>> given["stop"].append("MORE")
    >>> taken
    {'stop': ['END']}
    """
    try:
        return _copied(value)
    except RecursionError:  # it contains itself, which is reported when it is made JSON
        return value


def _copied(value: Any) -> Any:
    kind = type(value)
    if kind is str:
        return value
    if isinstance(value, (pd.DataFrame, pd.Series)):
        return value.copy(deep=_CELLS_ARE_SHARED)
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return {key: _copied(each) for key, each in value.items()}
    if isinstance(value, (list, set)):
        return [*map(_copied, value)] if isinstance(value, list) else set(value)
    return tuple(map(_copied, value)) if kind is tuple else value
