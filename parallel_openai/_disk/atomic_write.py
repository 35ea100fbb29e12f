"""Replaces a file atomically: it has either its old or its whole new content, whatever fails."""

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
    """A temporary file in the same folder that replaces `path` at the end; after a failure `path` is unchanged.

    A link is followed. The file is readable by its owner only, since it holds personal data.
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
            f"{str(path)!r:.200} cannot be written: {why}. Its previous content is unchanged."
        ) from error


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    target = Path(os.path.realpath(path))  # a link to itself is left as it is
    if target.is_dir():
        raise InvalidInputError(f"path must be a file, but {str(path)!r} is a folder. Name a file in it.")
    if target.exists() and not target.is_file():  # a pipe or a device cannot be replaced
        with open(target, "wb") as file:
            yield file
        return
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.", suffix=".part")
    try:
        with open(descriptor, "wb") as file:
            yield file
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)
