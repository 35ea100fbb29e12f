"""The file of requests: its lines, what each of them asks, and how many there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from parallel_openai.engine.lines import READ_AHEAD
from parallel_openai.errors import InvalidInputError
from parallel_openai.jsonl import loads
from parallel_openai.records import APIRequest

_MARK = b"\xef\xbb\xbf"
_PIECE = 1 << 18

#: A line's number, the byte that it begins at, and its text.
Line = tuple[int, int, bytes]


class RequestsFile:
    """A file with a JSON object a line, each the body of a call; it is read as it is needed and never held in memory.

    Raises:
        InvalidInputError: there is no such file.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "requests.jsonl"
    >>> path.write_bytes(b'{"model":"gpt-5-mini"}\\n\\n{"model":"gpt-5"}\\n') > 0
    True
    >>> list(RequestsFile(path).lines())
    [(1, 0, b'{"model":"gpt-5-mini"}\\n'), (3, 24, b'{"model":"gpt-5"}\\n')]
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise InvalidInputError(f"There is no requests file {path} (in {Path.cwd()}).")

    def lines(self) -> Iterator[Line]:
        """The lines that are not blank, each with its number and the byte that it begins at."""
        offset = 0
        with open(self.path, "rb", buffering=READ_AHEAD) as file:
            for number, line in enumerate(file, 1):
                begin, offset = offset, offset + len(line)
                if number == 1:
                    line = line.removeprefix(_MARK)
                if line and not line.isspace():
                    yield number, begin, line

    def lines_at(self, places: Iterable[tuple[int, int]]) -> Iterator[Line]:
        """The lines of these numbers, which begin at these bytes."""
        with open(self.path, "rb") as file:
            for number, offset in places:
                file.seek(offset)
                line = file.readline()
                yield number, offset, line.removeprefix(_MARK) if number == 1 else line

    def counts(self) -> Iterator[int]:
        """How many lines there are in one piece of the file after the other, blank ones among them.

        A piece takes a tenth of a millisecond, a gigabyte less than a second.
        """
        last = b"\n"
        with open(self.path, "rb", buffering=0) as file:
            while piece := file.read(_PIECE):
                yield piece.count(b"\n")
                last = piece[-1:]
        yield last != b"\n"

    def endpoint_path(self) -> str:
        """The endpoint for requests like the first one: an `input` is for embeddings."""
        try:
            with open(self.path, "rb") as file:
                first = loads(file.readline().removeprefix(_MARK))
        except ValueError:  # whoever reads the line next says it better
            first = None
        is_embedding = isinstance(first, dict) and "input" in first and "messages" not in first
        return "embeddings" if is_embedding else "chat/completions"


class LineRequest(APIRequest):
    """A request that knows its line.

    Raises:
        ValueError: it cannot be sent; the sentence says why.
    """

    __slots__ = ("number",)

    def __init__(self, request_json: Mapping[str, Any], metadata: Any, *, path: str, number: int) -> None:
        try:
            super().__init__(request_json, metadata, path=path)
            self.request_json = request_json  # read from the line, and nobody else's
        except TypeError as error:
            raise no_json(error) from None
        self.number = number


def parse_request(line: bytes) -> tuple[dict[str, Any], Any]:
    """The body that a line asks to be sent, and the line's metadata.

    Raises:
        ValueError: it is no request; the sentence says why.

    >>> parse_request(b'{"model": "gpt-5-mini", "metadata": {"row": 1}, "extra_body": {"metadata": {"team": "x"}}}')
    ({'model': 'gpt-5-mini', 'metadata': {'team': 'x'}}, {'row': 1})
    """
    try:
        body = loads(line)
    except ValueError as error:
        raise ValueError(f"it is not JSON ({error}).") from None
    if not isinstance(body, dict):
        raise ValueError(f'it holds a {_JSON_NAMES.get(type(body), "null")}, not an object such as {{"model": ...}}.')
    metadata = body.pop("metadata", None)
    extra = body.pop("extra_body", None)
    if extra is not None:
        if not isinstance(extra, dict):
            raise ValueError("its extra_body is not an object.")
        body.update(extra)
    if body.get("stream"):
        raise ValueError("it says stream: true, and answers are read whole.")
    return body, metadata


def no_json(error: TypeError) -> ValueError:
    """Why a body is not sent that JSON cannot carry."""
    return ValueError(f"it cannot be sent as JSON ({error}).")


_JSON_NAMES = {list: "list", str: "text", int: "number", float: "number", bool: "truth value"}
