"""The byte pair vocabularies in this package, for counting tokens without network access.

Uses only the standard library, because the build runs this module before dependencies are installed.
"""

from __future__ import annotations

import hashlib
from binascii import a2b_base64
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

#: This folder, even if the package is imported from an archive.
FOLDER: Path | Traversable = files(__name__) if __package__ else Path(__file__).parent


def ranks(name: str, *, folder: Path | Traversable = FOLDER) -> dict[bytes, int]:
    """The tokens of the vocabulary with their ranks, for `tiktoken.Encoding`.

    >>> ranks("cl100k_base")[b" the"]
    279
    """
    words = read(name, folder=folder).split()
    return dict(zip(map(a2b_base64, words[::2]), map(int, words[1::2]), strict=True))


def read(name: str, *, folder: Path | Traversable = FOLDER) -> bytes:
    """The vocabulary file as tiktoken publishes it.

    Raises:
        ValueError: the file is damaged: it cannot be decompressed, or its sha256 is not the expected one.

    >>> read("o200k_base")[:8]
    b'IQ== 0\\nI'
    """
    path = folder / f"{name}.tiktoken.xz"
    try:
        import lzma  # some Pythons are built without it
    except ImportError as error:
        raise ValueError(
            f"This Python cannot unpack the vocabulary {name}, since it was built without lzma."
        ) from error
    try:
        content = lzma.decompress(path.read_bytes())
    except (OSError, lzma.LZMAError) as error:
        raise ValueError(f"The vocabulary {path} cannot be read ({error}); install the package again.") from error
    if not matches(name, content, folder=folder):
        raise ValueError(f"The vocabulary {path} is damaged: its sha256 is wrong; install the package again.")
    return content


def matches(name: str, content: bytes, *, folder: Path | Traversable = FOLDER) -> bool:
    """Whether the content has the vocabulary's sha256.

    >>> matches("o200k_base", b"something else")
    False
    """
    return hashlib.sha256(content).hexdigest() == sums(folder)[f"{name}.tiktoken"]


def sums(folder: Path | Traversable = FOLDER) -> dict[str, str]:
    """The expected sha256 of each decompressed file.

    >>> list(sums())
    ['cl100k_base.tiktoken', 'o200k_base.tiktoken']
    """
    lines = (folder / "SHA256SUMS").read_text("ascii").splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}
