"""A file that takes the place of an older one only when it is whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from parallel_openai.errors import InvalidInputError, ParallelOpenAIError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write beside the file; at the end that is put in its place, and after a failure the old one is as it was.

    A link is followed. The file is for its owner only, since it holds people's data.

    Raises:
        InvalidInputError: it cannot be written there.
    """
    try:
        with _opened(path) as file:
            yield file
    except ParallelOpenAIError:
        raise
    except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
        if isinstance(error, UnicodeError):
            raise
        why = getattr(error, "strerror", None) or error
        raise InvalidInputError(
            f"{str(path)!r:.200} cannot be written: {why}. What it held before is as it was."
        ) from error


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    place = Path(os.path.realpath(path))  # which stops at a link that leads to itself
    if place.is_dir():
        raise InvalidInputError(f"path must be a file, and {str(path)!r} is a folder. Name a file in it.")
    if place.exists() and not place.is_file():  # a pipe or a device has no place to be put in
        with open(place, "wb") as file:
            yield file
        return
    descriptor, beside = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name[:100]}.", suffix=".part")
    try:
        with open(descriptor, "wb") as file:
            yield file
        os.replace(beside, place)
    finally:
        Path(beside).unlink(missing_ok=True)
