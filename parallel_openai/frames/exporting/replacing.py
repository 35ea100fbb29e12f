"""A file that takes the place of an older one only when it is whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from parallel_openai.errors import InvalidInputError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write beside the file; at the end that is put in its place, and after a failure the old one is as it was.

    A link is followed. The file is for its owner only, since it holds people's data.

    Raises:
        InvalidInputError: it cannot be written there.
    """
    place = path.resolve()
    if place.is_dir():
        raise InvalidInputError(f"path must be a file, and {str(path)!r} is a folder. Name a file in it.")
    if place.exists() and not place.is_file():  # a pipe or a device has no place to be put in
        with open(place, "wb") as file:
            yield file
        return
    try:
        descriptor, beside = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name[:100]}.", suffix=".part")
        try:
            with open(descriptor, "wb") as file:
                yield file
            os.replace(beside, place)
        finally:
            Path(beside).unlink(missing_ok=True)
    except OSError as error:
        raise InvalidInputError(
            f"{path} cannot be written: {error.strerror or error}. What it held before is as it was."
        ) from error
