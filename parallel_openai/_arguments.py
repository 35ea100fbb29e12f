"""Validation of common arguments."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from parallel_openai.errors import InvalidInputError

#: The longest file name in bytes that file systems allow.
_MAX_NAME_BYTES = 255


def path_of(value: str | os.PathLike[str], name: str) -> Path:
    """The argument of this name as a path, in which `~` is the user's home.

    >>> path_of(5, "save_to")
    Traceback (most recent call last):
        ...
    parallel_openai.errors.InvalidInputError: save_to must be a path such as 'answers.jsonl', not 5.
    """
    try:
        path = Path(os.path.expanduser(value))
    except TypeError:
        raise InvalidInputError(f"{name} must be a path such as 'answers.jsonl', not {value!r:.200}.") from None
    if "\0" in str(path):
        raise InvalidInputError(f"{name} must be a path without NUL characters, not {str(path)!r:.200}.")
    if len(path.name.encode("utf-8", "replace")) > _MAX_NAME_BYTES:
        raise InvalidInputError(
            f"{name} must be a path whose name has at most {_MAX_NAME_BYTES} bytes, not {str(path)!r:.400}."
        )
    return path


def check_file(path: Path, kind: str = "file") -> None:
    """Check that a path is an existing file, which a message calls by its kind."""
    try:
        is_file = path.is_file()
    except PermissionError:  # newer Pythons return False instead
        raise InvalidInputError(
            f"{path} cannot be accessed by this user. Change the permissions of its folder, or name another file."
        ) from None
    if not is_file:
        raise InvalidInputError(f"There is no {kind} {path} (in {Path.cwd()}).")


def check_count(value: int, name: str, *, least: Literal[0, 1] = 1) -> None:
    """Check that an argument is a whole number of at least `least`.

    >>> check_count(0, "samples")
    Traceback (most recent call last):
        ...
    parallel_openai.errors.InvalidInputError: samples must be a whole number above 0, not 0.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        kind = "above 0" if least else "from 0 on"
        raise InvalidInputError(f"{name} must be a whole number {kind}, not {value!r:.200}.")


def a_type(value: object) -> str:
    """A value's type, as a message says it.

    >>> a_type(1), a_type("a"), a_type(None)
    ('an int', 'a str', 'None')
    """
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def mapping_of(value: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    """The argument of this name as a mapping; an empty one for None.

    >>> mapping_of("Bearer", "headers")
    Traceback (most recent call last):
        ...
    parallel_openai.errors.InvalidInputError: headers must be a dict such as {'name': 'value'}, not a str.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):  # the message omits the value, since headers hold keys
        raise InvalidInputError(f"{name} must be a dict such as {{'name': 'value'}}, not {a_type(value)}.")
    return value
