"""Read a requests file: its lines, the request in each, and their number."""

from __future__ import annotations

import gzip
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from parallel_openai._arguments import check_file
from parallel_openai._frames.parameters import SECRET
from parallel_openai._journal.lines import PROMPT_FIELDS, READ_AHEAD
from parallel_openai._json import loads
from parallel_openai._requests.endpoints import endpoint_at
from parallel_openai._requests.template import NOT_WHOLE
from parallel_openai.errors import InvalidInputError

_BOM = b"\xef\xbb\xbf"
_CHUNK_BYTES = 1 << 18

#: A line's number, byte offset and content.
Line = tuple[int, int, bytes]


class RequestsFile:
    """A file with a JSON object per line, each the body of a call. It is read on demand and never held in memory.

    It may be compressed by gzip or zstd. Reading ends where it is damaged, with a line that says so.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "requests.jsonl"
    >>> path.write_bytes(b'{"model":"gpt-5-mini"}\\n\\n{"model":"gpt-5"}\\n') > 0
    True
    >>> list(RequestsFile(path).lines())
    [(1, 0, b'{"model":"gpt-5-mini"}\\n'), (3, 24, b'{"model":"gpt-5"}\\n')]
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if is_pipe(path):
            raise InvalidInputError(f"{path} is a pipe, but requests are read more than once: save them to a file.")
        check_file(path, "requests file")
        try:
            with open(path, "rb") as file:
                head = file.read(4)
        except OSError as error:
            raise InvalidInputError(f"The requests file {path} cannot be read: {error.strerror}.") from error
        if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise InvalidInputError(f"{path} is UTF-16, but a requests file must be UTF-8. Save it as UTF-8.")
        self._opener, self._damages = _opener(path, head)

    def _open(self) -> IO[bytes]:
        return cast(IO[bytes], self._opener(self.path, "rb"))

    def lines(self) -> Iterator[Line]:
        """The lines that are not blank, each with its number and byte offset."""
        offset = 0
        for number, line in enumerate(self._until_damage(iter), 1):
            start, offset = offset, offset + len(line)
            line = line.removeprefix(_BOM)  # on any line, since files may have been concatenated
            if line and not line.isspace():
                yield number, start, line

    def lines_at(self, positions: Iterable[tuple[int, int]]) -> Iterator[Line]:
        """The lines with these numbers and byte offsets; in place of one that cannot be read, a line that says so."""
        with ExitStack() as stack:
            file: IO[bytes] | None = None
            for number, offset in positions:
                try:
                    file = file or stack.enter_context(self._open())
                    file.seek(offset)
                    line = file.readline()
                except self._damages as error:
                    line = _damage_line(error)
                yield number, offset, line.removeprefix(_BOM)

    def counts(self) -> Iterator[int]:
        """The number of lines in each chunk of the file, blank ones included.

        A chunk takes a tenth of a millisecond, a gigabyte less than a second.
        """
        last = b"\n"
        for chunk in self._until_damage(lambda file: iter(lambda: file.read(_CHUNK_BYTES), b"")):
            yield chunk.count(b"\n")
            last = chunk[-1:]
        yield last != b"\n"

    def _until_damage(self, read: Callable[[IO[bytes]], Iterator[bytes]]) -> Iterator[bytes]:
        """The content up to any damage, and then a line that reports it. The file may also be deleted during a run."""
        try:
            with self._open() as file:
                yield from read(file)
        except self._damages as error:
            yield _damage_line(error)


def is_pipe(path: Path) -> bool:
    return os.path.exists(path) and path.is_fifo()


def _opener(path: Path, head: bytes) -> tuple[Callable[..., Any], tuple[type[Exception], ...]]:
    """The function that opens a file with these first bytes, whatever its name, and its errors for damaged content."""
    if head.startswith(b"\x1f\x8b"):
        return gzip.open, (OSError, EOFError, zlib.error)
    if head != b"\x28\xb5\x2f\xfd":
        return partial(open, buffering=READ_AHEAD), (OSError,)
    try:
        zstd = import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    except ImportError:
        raise InvalidInputError(
            f"{path} is compressed by zstd, which needs another library: pip install 'parallel-openai[zstd]'."
        ) from None
    return zstd.open, (OSError, EOFError, zstd.ZstdError)


def _damage_line(error: Exception) -> bytes:
    return f"(from here on the file cannot be read: {getattr(error, 'strerror', None) or error})".encode()


class LineContent(NamedTuple):
    """The content of a line: the body to send, the metadata to keep, and the endpoint, if the line has one."""

    body: dict[str, Any]
    metadata: Any
    path: str | None = None


def parse_request(line: bytes) -> LineContent:
    """Parse a line: a body with our own `metadata` and `extra_body`, or a line in the Batch API's format.

    Raises:
        ValueError: it is not a valid request; the message says why.

    >>> tuple(parse_request(b'{"model": "m", "metadata": {"row": 1}, "extra_body": {"metadata": {"team": "x"}}}'))
    ({'model': 'm', 'metadata': {'team': 'x'}}, {'row': 1}, None)
    >>> tuple(parse_request(b'{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m"}}'))
    ({'model': 'm'}, {'custom_id': 'a'}, 'embeddings')
    """
    try:
        body = loads(line)
    except ValueError as error:
        raise ValueError(f"it is not JSON ({error}).") from None
    if not isinstance(body, dict):
        raise ValueError(f'it holds a {_JSON_NAMES.get(type(body), "null")}, not an object such as {{"model": ...}}.')
    content = _from_batch(body) if isinstance(body.get("body"), dict) and "model" not in body else _from_ours(body)
    if not content.body:
        raise ValueError("it is an empty request.")
    for name in sorted(SECRET & content.body.keys()):
        raise ValueError(f"its {name} would be sent and stored with it; pass the key as api_key= of the call.")
    for name in NOT_WHOLE:
        if content.body.get(name):
            raise ValueError(f"it has {name}: true, but answers are read whole here.")
    if not content.body.keys() & {"model", *PROMPT_FIELDS}:  # another program's format, or other data
        raise ValueError(f"it is no request: it has no model, and none of {', '.join(PROMPT_FIELDS)}.")
    return content


def _from_ours(body: dict[str, Any]) -> LineContent:
    metadata = body.pop("metadata", None)
    extra = body.pop("extra_body", None)
    if extra is not None:
        if not isinstance(extra, dict):
            raise ValueError("its extra_body is not an object.")
        body.update(extra)
    return LineContent(body, metadata)


def _from_batch(line: dict[str, Any]) -> LineContent:
    url, method = line.get("url"), line.get("method", "POST")
    known = endpoint_at(url) if isinstance(url, str) and "://" not in url else None
    if url is not None and known is None:
        raise ValueError(f"its url is {url!r:.100}, which is not an endpoint such as /v1/chat/completions.")
    if method != "POST":
        raise ValueError(f"its method is {method!r:.20}, but only POST is supported.")
    custom_id = line.get("custom_id")
    metadata = None if custom_id is None else {"custom_id": custom_id}
    return LineContent(line["body"], metadata, None if known is None else known.path)


def not_json(error: TypeError) -> ValueError:
    """The error of a body that cannot be written as JSON."""
    return ValueError(f"it cannot be sent as JSON ({error}).")


_JSON_NAMES = {list: "list", str: "string", int: "number", float: "number", bool: "boolean"}
