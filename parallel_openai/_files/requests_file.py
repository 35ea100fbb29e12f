"""The file of requests: its lines, what each of them asks, and how many there are."""

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

from parallel_openai._arguments import is_file
from parallel_openai._frames.parameters import SECRET
from parallel_openai._journal.lines import ASKS, READ_AHEAD
from parallel_openai._json import loads
from parallel_openai._requests.endpoints import endpoint_at, path_for
from parallel_openai.errors import InvalidInputError

_MARK = b"\xef\xbb\xbf"
_PIECE = 1 << 18

#: A line's number, the byte that it begins at, and its text.
Line = tuple[int, int, bytes]


class RequestsFile:
    """A file with a JSON object a line, each the body of a call; it is read as it is needed and never held in memory.

    It may be compressed, by gzip or zstd. What is damaged in it ends it, with a line that says so.

    Raises:
        InvalidInputError: there is no such file, or it is of a kind that is not read here.

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
            raise InvalidInputError(f"{path} is a pipe, and requests are read more than once: put them into a file.")
        if not is_file(path):
            raise InvalidInputError(f"There is no requests file {path} (in {Path.cwd()}).")
        try:
            with open(path, "rb") as file:
                head = file.read(4)
        except OSError as error:
            raise InvalidInputError(f"The requests file {path} cannot be read: {error.strerror}.") from error
        if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise InvalidInputError(f"{path} is UTF-16, and a file of requests must be UTF-8. Save it as that.")
        self._opener, self._damages = _opener(path, head)

    def _open(self) -> IO[bytes]:
        return cast(IO[bytes], self._opener(self.path, "rb"))

    def lines(self) -> Iterator[Line]:
        """The lines that are not blank, each with its number and the byte that it begins at."""
        offset = 0
        for number, line in enumerate(self._to_the_damage(iter), 1):
            begin, offset = offset, offset + len(line)
            line = line.removeprefix(_MARK)  # also where files were joined to one
            if line and not line.isspace():
                yield number, begin, line

    def lines_at(self, places: Iterable[tuple[int, int]]) -> Iterator[Line]:
        """The lines of these numbers, which begin at these bytes; one that says so for each that cannot be read."""
        with ExitStack() as stack:
            file: IO[bytes] | None = None
            for number, offset in places:
                try:
                    file = file or stack.enter_context(self._open())
                    file.seek(offset)
                    line = file.readline()
                except self._damages as error:
                    line = _told(error)
                yield number, offset, line.removeprefix(_MARK)

    def counts(self) -> Iterator[int]:
        """How many lines there are in one piece of the file after the other, blank ones among them.

        A piece takes a tenth of a millisecond, a gigabyte less than a second.
        """
        last = b"\n"
        for piece in self._to_the_damage(lambda file: iter(lambda: file.read(_PIECE), b"")):
            yield piece.count(b"\n")
            last = piece[-1:]
        yield last != b"\n"

    def _to_the_damage(self, pieces: Callable[[IO[bytes]], Iterator[bytes]]) -> Iterator[bytes]:
        """What can be read, and a line in the place of the rest, if there is one that cannot. The file may be removed
        in mid-run, too."""
        try:
            with self._open() as file:
                yield from pieces(file)
        except self._damages as error:
            yield _told(error)

    def endpoint_path(self) -> str:
        """The endpoint for requests like the first one."""
        for _, _, line in self.lines():
            try:
                return path_for(parse_request(line).body)
            except ValueError:  # whoever reads the line next says it better
                break
        return path_for({})


def is_pipe(path: Path) -> bool:
    return os.path.exists(path) and path.is_fifo()


def _opener(path: Path, head: bytes) -> tuple[Callable[..., Any], tuple[type[Exception], ...]]:
    """How a file is opened that begins like this, whatever it is called, and what is raised where it is damaged."""
    if head.startswith(b"\x1f\x8b"):
        return gzip.open, (OSError, EOFError, zlib.error)
    if head != b"\x28\xb5\x2f\xfd":
        return partial(open, buffering=READ_AHEAD), (OSError,)
    try:
        zstd = import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    except ImportError:
        raise InvalidInputError(
            f"{path} is compressed by zstd, for which a library is needed: pip install 'parallel-openai[zstd]'."
        ) from None
    return zstd.open, (OSError, EOFError, zstd.ZstdError)


def _told(error: Exception) -> bytes:
    return f"(from here on the file cannot be read: {getattr(error, 'strerror', None) or error})".encode()


class LineContent(NamedTuple):
    """What a line asks for: the body that is sent, what travels beside it, and where it goes, if the line says it."""

    body: dict[str, Any]
    metadata: Any
    path: str | None = None


def parse_request(line: bytes) -> LineContent:
    """What a line asks for: a body with `metadata` and `extra_body` of our own, or a line of the Batch API's form.

    Raises:
        ValueError: it is no request; the sentence says why.

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
    asked = _of_batch(body) if isinstance(body.get("body"), dict) and "model" not in body else _of_ours(body)
    if not asked.body:
        raise ValueError("it is an empty request.")
    for name in sorted(SECRET & asked.body.keys()):
        raise ValueError(f"its {name} would be sent and written down with it; a key is said with api_key= of the call.")
    if asked.body.get("stream"):
        raise ValueError("it says stream: true, and answers are read whole.")
    if not asked.body.keys() & {"model", *ASKS}:  # another maker's form, or somebody's data
        raise ValueError(f"it is no request: it has no model, and none of {', '.join(ASKS)}.")
    return asked


def _of_ours(body: dict[str, Any]) -> LineContent:
    metadata = body.pop("metadata", None)
    extra = body.pop("extra_body", None)
    if extra is not None:
        if not isinstance(extra, dict):
            raise ValueError("its extra_body is not an object.")
        body.update(extra)
    return LineContent(body, metadata)


def _of_batch(line: dict[str, Any]) -> LineContent:
    url, method = line.get("url"), line.get("method", "POST")
    known = endpoint_at(url) if isinstance(url, str) and "://" not in url else None
    if url is not None and known is None:
        raise ValueError(f"its url is {url!r:.100}, which is no endpoint such as /v1/chat/completions.")
    if method != "POST":
        raise ValueError(f"its method is {method!r:.20}, and only POST is sent.")
    custom_id = line.get("custom_id")
    metadata = None if custom_id is None else {"custom_id": custom_id}
    return LineContent(line["body"], metadata, None if known is None else known.path)


def no_json(error: TypeError) -> ValueError:
    """Why a body is not sent that JSON cannot carry."""
    return ValueError(f"it cannot be sent as JSON ({error}).")


_JSON_NAMES = {list: "list", str: "text", int: "number", float: "number", bool: "truth value"}
