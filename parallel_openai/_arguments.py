"""Arguments that many functions take: what they must be, said in a sentence where they are not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from parallel_openai.errors import InvalidInputError

#: Bytes that file systems let a name have.
_LONGEST_NAME = 255


def path_of(value: str | os.PathLike[str], name: str) -> Path:
    """The path that the argument of that name means.

    Raises:
        InvalidInputError: it is none.

    >>> path_of(5, "save_to")
    Traceback (most recent call last):
        ...
    parallel_openai.errors.InvalidInputError: save_to must be a path such as 'answers.jsonl', not 5.
    """
    try:
        path = Path(value)
    except TypeError:
        raise InvalidInputError(f"{name} must be a path such as 'answers.jsonl', not {value!r:.200}.") from None
    if "\0" in str(path):
        raise InvalidInputError(f"{name} must be a path, and none has a NUL in it: {str(path)!r:.200}.")
    if len(path.name.encode("utf-8", "replace")) > _LONGEST_NAME:
        raise InvalidInputError(f"{name} must be a path with names up to {_LONGEST_NAME} bytes: {str(path)!r:.400}.")
    return path


def is_file(place: Path) -> bool:
    """Whether there is such a file.

    Raises:
        InvalidInputError: this user may not look there.
    """
    try:
        return place.is_file()
    except PermissionError:  # which newer Pythons keep to themselves
        raise InvalidInputError(
            f"{place} cannot be looked at by this user. Change the rights of its folder, or name another file."
        ) from None


def check_count(value: int, name: str, *, least: Literal[0, 1] = 1) -> None:
    """See that an argument is a whole number that counts something.

    Raises:
        InvalidInputError: it is none, or below `least`.

    >>> check_count(0, "samples")
    Traceback (most recent call last):
        ...
    parallel_openai.errors.InvalidInputError: samples must be a whole number above 0, not 0.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        kind = "above 0" if least else "from 0 on"
        raise InvalidInputError(f"{name} must be a whole number {kind}, not {value!r:.200}.")


def mapping_of(value: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    """The mapping that the argument of that name is; an empty one for None.

    Raises:
        InvalidInputError: it is none. The value is not shown, since headers hold keys.

    >>> mapping_of("Bearer", "headers")
    Traceback (most recent call last):
        ...
    parallel_openai.errors.InvalidInputError: headers must be a dict such as {'name': 'value'}, not a str.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{name} must be a dict such as {{'name': 'value'}}, not a {type(value).__name__}.")
    return value
